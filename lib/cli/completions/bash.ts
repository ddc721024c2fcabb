/**
 * Completions for bash (4.3 and later).
 *
 * @module
 */

import type { Command } from "../command.ts";
import { type CompletedCommand, completedCommands, scalarValues, type Values } from "./words.ts";

/** The script to source. */
export function bashCompletions(root: Command): string {
  const commands = completedCommands(root);
  return SCRIPT.replaceAll("@COMMANDS@", () => commands.map(commandCase).join("\n"))
    .replaceAll("@VALUES@", () => commands.flatMap(valueCases).join("\n"))
    .replaceAll("@DESCEND@", () => commands.slice(1).map(descendCase).join(" | "))
    .replaceAll("@VALUED@", () => [...new Set(commands.flatMap(valuedNames))].join(" | "))
    .replaceAll("@POSITIONALS@", () => commands.flatMap(positionalCases).join("\n"));
}

/** Bash splits words at `=` and `:`, so the script takes them from the line itself. */
const SCRIPT = `# bash completion for vmctl; source this file.

_vmctl() {
  local line="\${COMP_LINE:0:COMP_POINT}"
  local -a words
  # Without -r, so that a blank behind a backslash belongs to its word.
  read -a words <<<"$line"
  [[ $line == *[[:space:]] && $line != *\\\\[[:space:]] ]] && words+=("")
  local current="\${words[-1]}" command="" count=0 pending="" rest="" word i
  for ((i = 1; i < \${#words[@]} - 1; i++)); do
    word="\${words[i]}"
    if [[ -n $pending ]]; then
      pending=""
    elif [[ -n $rest ]]; then
      ((count++))
    elif [[ $word == -- ]]; then
      rest=1
    elif [[ $word == -* ]]; then
      case "$word" in
        @VALUED@) pending="$word" ;;
      esac
    else
      case "$command/$word" in
        @DESCEND@) command="$command/$word" ;;
        *) ((count++)) ;;
      esac
    fi
  done

  local options="" commands=""
  case "$command" in
@COMMANDS@
  esac

  COMPREPLY=()
  if [[ -n $pending ]]; then
    _vmctl_value "$command" "$pending" "" "$current"
  elif [[ -z $rest && $current == --*=* ]]; then
    _vmctl_value "$command" "\${current%%=*}" "\${current%%=*}=" "\${current#*=}"
  elif [[ -z $rest && $current == -* ]]; then
    _vmctl_words "" "$current" "$options"
  elif [[ -n $commands ]]; then
    _vmctl_words "" "$current" "$commands"
  else
    case "$command/$count" in
@POSITIONALS@
    esac
  fi

  # Bash replaces only what stands behind the last character at which it splits.
  local split="" char
  for char in = :; do
    [[ $COMP_WORDBREAKS == *$char* ]] || continue
    local head="\${current%"\${current##*"$char"}"}"
    ((\${#head} > \${#split})) && split="$head"
  done
  [[ -n $split ]] && COMPREPLY=("\${COMPREPLY[@]#"$split"}")
}

# Completes the value $4 of option $2 of command $1; $3 stands before it in the same word.
_vmctl_value() {
  case "$1:$2" in
@VALUES@
  esac
}

_vmctl_words() {
  mapfile -t COMPREPLY < <(compgen -P "$1" -W "$3" -- "$2")
}

_vmctl_files() {
  mapfile -t COMPREPLY < <(compgen -f -P "$1" -- "$2")
  compopt -o filenames 2>/dev/null
  [[ \${#COMPREPLY[@]} -eq 1 && -d \${COMPREPLY[0]#"$1"} ]] && compopt -o nospace 2>/dev/null
  return 0
}

_vmctl_vms() {
  _vmctl_words "" "$1" "$("\${COMP_WORDS[0]}" list --names 2>/dev/null)"
}

# Completes the last of the keys in $2; $3 are all keys, and "key:values" words follow.
_vmctl_keys() {
  local head="" last="$2" key entry
  [[ $last == *,* ]] && head="\${last%,*}," last="\${last##*,}"
  if [[ $last == *=* ]]; then
    key="\${last%%=*}"
    for entry in "\${@:4}"; do
      case "$entry" in
        "$key:@file") _vmctl_files "$1$head$key=" "\${last#*=}" ;;
        "$key:"*) _vmctl_words "$1$head$key=" "\${last#*=}" "\${entry#*:}" ;;
      esac
    done
  else
    _vmctl_words "$1$head" "$last" "$3"
  fi
  compopt -o nospace 2>/dev/null
}

complete -F _vmctl vmctl
`;

/** `/config/check`; empty for the root. */
function pathOf(command: CompletedCommand): string {
  return command.path.map((name) => `/${name}`).join("");
}

function commandCase(command: CompletedCommand): string {
  const options = command.options.flatMap(({ names }) => names).join(" ");
  const commands = Object.keys(command.commands).join(" ");
  return `    "${pathOf(command)}") options="${options}" commands="${commands}" ;;`;
}

function descendCase(command: CompletedCommand): string {
  return `"${pathOf(command)}"`;
}

function valuedNames(command: CompletedCommand): readonly string[] {
  return command.options.filter(({ valueName }) => valueName !== undefined)
    .flatMap(({ names }) => names);
}

function valueCases(command: CompletedCommand): string[] {
  return command.options.flatMap(({ names, values }) => {
    const action = valueAction(values);
    if (action === undefined) return [];
    const patterns = names.map((name) => `"${pathOf(command)}:${name}"`).join(" | ");
    return [`    ${patterns}) ${action} ;;`];
  });
}

function valueAction(values: Values): string | undefined {
  switch (values.kind) {
    case "file":
      return `_vmctl_files "$3" "$4"`;
    case "words":
      return `_vmctl_words "$3" "$4" "${Object.keys(values.words).join(" ")}"`;
    case "record":
      return keysAction(values);
    case "vm":
    case "none":
      return undefined;
  }
}

function keysAction(values: Values & { kind: "record" }): string {
  const keys: string[] = [];
  const entries: string[] = [];
  for (const [key, field] of Object.entries(values.type.fields)) {
    keys.push(field.type.kind === "boolean" ? key : `${key}=`);
    const choices = scalarValues(field.type);
    if (choices.kind === "file") entries.push(`"${key}:@file"`);
    if (choices.kind === "words") entries.push(`"${key}:${Object.keys(choices.words).join(" ")}"`);
  }
  return `_vmctl_keys "$3" "$4" "${keys.join(" ")}" ${entries.join(" ")}`;
}

function positionalCases(command: CompletedCommand): string[] {
  return command.positionals.map(({ values, repeated }, at) =>
    `      "${pathOf(command)}/"${repeated ? "*" : at}) ${positionalAction(values)} ;;`
  );
}

function positionalAction(values: Values): string {
  switch (values.kind) {
    case "file":
      return `_vmctl_files "" "$current"`;
    case "vm":
      return `_vmctl_vms "$current"`;
    case "words":
      return `_vmctl_words "" "$current" "${Object.keys(values.words).join(" ")}"`;
    default:
      return ":";
  }
}
