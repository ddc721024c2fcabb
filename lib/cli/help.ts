/**
 * Help, from the tree of commands and the tables of options.
 *
 * @module
 */

import type { Option, OptionTable, RecordType } from "../config/mod.ts";
import { commandName, optionsOf } from "./arguments.ts";
import type { Command } from "./command.ts";
import type { Style } from "./output.ts";

const WIDTH = 100;
const COLUMN = 30;

/** The help of the last command of `path`. */
export function renderHelp(path: readonly Command[], style: Style): string {
  const command = path.at(-1)!;
  const options = optionsOf(command, path.length === 1);
  const blocks: string[] = [
    `${command.help}\n`,
    `${style.bold("Usage:")} ${usage(path)}\n`,
    ...(command.details ?? []).map((paragraph) => wrap(paragraph, { indent: 0, first: 0 })),
  ];
  if (command.commands.length > 0) {
    const lines = command.commands.map((child) => entry(child.name, child.help));
    blocks.push(`${style.bold("Commands:")}\n${lines.join("")}`);
  }
  if (command.positionals.length > 0) {
    const lines = command.positionals.map((argument) => entry(argument.name, argument.help));
    blocks.push(`${style.bold("Arguments:")}\n${lines.join("")}`);
  }
  for (const [heading, names] of groups(options)) {
    const lines = names.map((name) => optionHelp(name, options[name]!));
    blocks.push(`${style.bold(`${heading}:`)}\n${lines.join("")}`);
  }
  if (command.examples.length > 0) {
    const lines = command.examples.map(({ command: line, help }) =>
      `  ${style.dim(`# ${help}`)}\n  ${line}\n`
    );
    blocks.push(`${style.bold("Examples:")}\n${lines.join("")}`);
  }
  if (command.commands.length > 0) {
    blocks.push(`"${commandName(path)} COMMAND --help" tells more about a command.\n`);
  }
  return blocks.join("\n");
}

function usage(path: readonly Command[]): string {
  const command = path.at(-1)!;
  const words = [commandName(path), "[OPTIONS]"];
  if (command.commands.length > 0) words.push("COMMAND");
  for (const { name, optional, repeated } of command.positionals) {
    const word = repeated === true ? `${name}…` : name;
    words.push(optional === true ? `[${word}]` : word);
  }
  return words.join(" ");
}

function groups(options: OptionTable): Map<string, string[]> {
  const result = new Map<string, string[]>();
  for (const [name, option] of Object.entries(options)) {
    const heading = option.group === undefined ? "Options" : `${option.group} options`;
    result.set(heading, [...result.get(heading) ?? [], name]);
  }
  // What every command has comes last.
  const common = result.get("Common options");
  result.delete("Common options");
  if (common !== undefined) result.set("Common options", common);
  return result;
}

function optionHelp(name: string, option: Option): string {
  const short = option.short === undefined ? "    " : `-${option.short}, `;
  const names = [name, ...option.aliases ?? []].map((long) => `--${long}`).join(", ");
  const value = option.type.kind === "boolean" ? "" : ` ${option.valueName ?? "VALUE"}`;
  const item = option.type.kind === "list" ? option.type.item : option.type;
  const lines = [entry(`${short}${names}${value}`, option.help)];
  if (item.kind === "choice") lines.push(...choiceHelp(item.choices, COLUMN));
  if (item.kind === "record" && Object.keys(item.fields).length > 1) lines.push(...keyHelp(item));
  return lines.join("");
}

function keyHelp(type: RecordType): string[] {
  return Object.entries(type.fields).flatMap(([name, field]) => {
    const shown = field.type.kind === "boolean" ? name : `${name}=`;
    const choices = field.type.kind === "choice" ? Object.keys(field.type.choices).join("|") : "";
    const text = choices === "" ? field.help : `${choices}: ${field.help}`;
    return [entry(`        ${shown}`, text)];
  });
}

function choiceHelp(choices: Readonly<Record<string, string>>, indent: number): string[] {
  const width = Math.max(...Object.keys(choices).map((name) => name.length));
  return Object.entries(choices).map(([name, help]) =>
    `${" ".repeat(indent)}${name.padEnd(width)}  ${help}\n`
  );
}

function entry(left: string, text: string): string {
  const head = `  ${left}`;
  if (head.length + 2 > COLUMN) {
    return `${head}\n${wrap(text, { indent: COLUMN, first: COLUMN })}`;
  }
  return head.padEnd(COLUMN) + wrap(text, { indent: COLUMN, first: 0 });
}

function wrap(text: string, options: { indent: number; first: number }): string {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    if (line !== "" && options.indent + line.length + 1 + word.length > WIDTH) {
      lines.push(line);
      line = word;
    } else {
      line = line === "" ? word : `${line} ${word}`;
    }
  }
  lines.push(line);
  const [head, ...rest] = lines;
  return [" ".repeat(options.first) + head, ...rest.map((l) => " ".repeat(options.indent) + l)]
    .join("\n") + "\n";
}
