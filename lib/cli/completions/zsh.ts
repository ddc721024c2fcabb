/**
 * Completions for zsh.
 *
 * @module
 */

import type { Command } from "../command.ts";
import {
  type CompletedCommand,
  completedCommands,
  type CompletedOption,
  scalarValues,
  shellQuote,
  type Values,
} from "./words.ts";

type RecordValues = Values & { readonly kind: "record" };

/** The script: to be sourced, or as `_vmctl` in a folder of `$fpath`. */
export function zshCompletions(root: Command): string {
  const commands = completedCommands(root);
  const records = new Map<string, RecordValues>();
  for (const { values } of commands.flatMap(({ options }) => options)) {
    if (values.kind === "record") records.set(values.option, values);
  }
  return `#compdef vmctl
# zsh completion for vmctl: source this file, or put it as _vmctl into a folder of $fpath.

_vmctl_vms() {
  local -a vms
  vms=(\${(f)"$(_call_program vms $service list --names 2>/dev/null)"})
  compadd -a vms
}

${[...[...records.values()].map(keysFunction), ...commands.map(commandFunction)].join("\n\n")}

if [[ $funcstack[1] == _vmctl ]]; then
  _vmctl "$@"
else
  compdef _vmctl vmctl
fi
`;
}

function functionName(path: readonly string[]): string {
  return ["_vmctl", ...path].join("_");
}

function commandFunction(command: CompletedCommand): string {
  const name = functionName(command.path);
  const specs = command.options.map(optionSpec);
  const children = Object.entries(command.commands);
  if (children.length === 0) {
    command.positionals.forEach((argument, at) => {
      const which = argument.repeated ? "*" : String(at + 1);
      specs.push(shellQuote(`${which}:${argument.name}:${action(argument.values)}`));
    });
    return `${name}() {\n  _arguments -s -S ${lines(specs)}\n}`;
  }
  const described = children.map(([child, help]) => shellQuote(`${escape(child)}:${escape(help)}`));
  const cases = children.map(([child]) =>
    `        ${child}) ${functionName([...command.path, child])} ;;`
  );
  return `${name}() {
  local curcontext="$curcontext" context state state_descr line
  local -A opt_args
  local -a commands=(${lines(described)})
  _arguments -C -S ${lines([...specs, "'1:command:->command'", "'*::argument:->rest'"])}
  case $state in
    command) _describe command commands ;;
    rest)
      case $words[1] in
${cases.join("\n")}
      esac
      ;;
  esac
}`;
}

function lines(words: readonly string[]): string {
  return words.map((word) => `\\\n    ${word}`).join(" ");
}

function optionSpec(option: CompletedOption): string {
  const help = `[${escape(option.help)}]`;
  const value = option.valueName === undefined
    ? ""
    : `:${escape(option.valueName)}:${action(option.values)}`;
  const long = (name: string) => value !== "" && name.startsWith("--") ? `${name}=` : name;
  const shown = option.names.map((name) => shellQuote(long(name))).join(",");
  if (option.repeated) return `\\*${braces(shown)}${shellQuote(help + value)}`;
  const exclusive = `(${option.names.join(" ")})`;
  return `${shellQuote(exclusive)}${braces(shown)}${shellQuote(help + value)}`;
}

function braces(names: string): string {
  return names.includes(",") ? `{${names}}` : names;
}

function action(values: Values): string {
  switch (values.kind) {
    case "file":
      return "_files";
    case "vm":
      return "_vmctl_vms";
    case "words":
      return `(${Object.keys(values.words).join(" ")})`;
    case "record":
      return keysFunctionName(values);
    case "none":
      return " ";
  }
}

function keysFunctionName(values: RecordValues): string {
  return `_vmctl_keys_${values.option}`;
}

function keysFunction(values: RecordValues): string {
  const specs = Object.entries(values.type.fields).map(([key, field]) => {
    const value = field.type.kind === "boolean"
      ? ""
      : `:${key}:${action(scalarValues(field.type))}`;
    return shellQuote(`${key}[${escape(field.help)}]${value}`);
  });
  return `${keysFunctionName(values)}() {\n  _values -s , keys ${lines(specs)}\n}`;
}

/** Characters that mean something within a spec. */
function escape(text: string): string {
  return text.replace(/[:[\]\\]/g, "\\$&");
}
