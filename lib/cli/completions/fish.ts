/**
 * Completions for fish.
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

/** The script to source, or to put into `~/.config/fish/completions/vmctl.fish`. */
export function fishCompletions(root: Command): string {
  const commands = completedCommands(root);
  const valued = new Set(
    commands.flatMap(({ options }) => options)
      .filter(({ valueName }) => valueName !== undefined).flatMap(({ names }) => names),
  );
  return `# fish completion for vmctl
# The words of the command so far, without options and their values.
function __vmctl_words
    set -l words (commandline -opc)
    set -e words[1]
    set -l skip 0
    for word in $words
        if test $skip -eq 1
            set skip 0
        else if contains -- $word ${[...valued].join(" ")}
            set skip 1
        else if not string match -q -- '-*' $word
            echo $word
        end
    end
end

# Whether these words are exactly the commands so far (-e), or begin what is there.
function __vmctl_at
    set -l words (__vmctl_words)
    if test "$argv[1]" = -e
        set -e argv[1]
        test (count $words) -eq (count $argv); or return 1
    end
    test (count $words) -ge (count $argv); or return 1
    for i in (seq (count $argv))
        test "$words[$i]" = "$argv[$i]"; or return 1
    end
end

# Completes the last of several keys: "key=", "key=value" and flags.
function __vmctl_keys
    set -l head (string match -r '^.*,' -- (commandline -ct | string replace -r '^--[a-z-]+=' ''))
    for key in $argv
        echo "$head$key"
    end
end

complete -c vmctl -f
${commands.flatMap(commandLines).join("\n")}
`;
}

function commandLines(command: CompletedCommand): string[] {
  const words = command.path.join(" ");
  const at = shellQuote(`__vmctl_at ${words}`.trimEnd());
  const exactly = shellQuote(`__vmctl_at -e ${words}`.trimEnd());
  const children = Object.entries(command.commands).map(([name, help]) =>
    `complete -c vmctl -n ${exactly} -a ${name} -d ${shellQuote(help)}`
  );
  // The root's options would otherwise be offered everywhere.
  const condition = command.path.length === 0 ? exactly : at;
  const options = command.options.map((option) =>
    `complete -c vmctl -n ${condition} ${optionWords(option)}`
  );
  const last = command.positionals.at(-1);
  const positionals = last === undefined
    ? []
    : [`complete -c vmctl -n ${last.repeated ? at : exactly} ${valueWords(last.values)}`];
  return [...children, ...options, ...positionals];
}

function optionWords(option: CompletedOption): string {
  const names = option.names.map((name) =>
    name.startsWith("--") ? `-l ${name.slice(2)}` : `-s ${name.slice(1)}`
  );
  const value = option.valueName === undefined
    ? ""
    : ` ${option.values.kind === "file" ? "-r" : "-x"} ${valueWords(option.values)}`.trimEnd();
  return `${names.join(" ")} -d ${shellQuote(option.help)}${value}`;
}

function valueWords(values: Values): string {
  switch (values.kind) {
    case "file":
      return "-F";
    case "vm":
      return "-a '(vmctl list --names 2>/dev/null)'";
    case "words":
      return `-a ${shellQuote(Object.keys(values.words).join(" "))}`;
    case "record":
      return `-a ${shellQuote(`(__vmctl_keys ${keyWords(values).join(" ")})`)}`;
    case "none":
      return "";
  }
}

function keyWords(values: Values & { kind: "record" }): string[] {
  return Object.entries(values.type.fields).flatMap(([key, field]) => {
    if (field.type.kind === "boolean") return [key];
    const choices = scalarValues(field.type);
    if (choices.kind !== "words") return [`${key}=`];
    return Object.keys(choices.words).map((word) => `${key}=${word}`);
  });
}
