/**
 * `vmctl policy check`, `compile` and `explain`.
 *
 * @module
 */

import { describeFileError } from "../../base/mod.ts";
import { suggest } from "../../config/mod.ts";
import {
  type Action,
  compilePolicy,
  describeAction,
  describeCondition,
  describeReturn,
  disassemble,
  embeddedPolicyNames,
  encodeProgram,
  evaluateExpression,
  formatPlace,
  type Instruction,
  JailError,
  judge,
  loadDevicePolicy,
  loadPolicy,
  type Place,
  type Policy,
  PolicyError,
  type PolicyProblem,
  type Rule,
  simulate,
  syscallName,
  syscallNames,
  syscallNumber,
  type SyscallRules,
  type Violation,
} from "../../jail/mod.ts";
import type { CommandInput } from "../command.ts";
import { CommandError, UsageError } from "../errors.ts";
import { print, printJson, table } from "../output.ts";
import type { CHECK_POLICY_OPTIONS, COMPILE_OPTIONS, EXPLAIN_OPTIONS } from "../command_options.ts";

/** In front of the name of a policy that is part of the program. */
const BUILT_IN = "builtin:";

/** Checks policies, each with what it includes. */
export async function checkPolicies(
  input: CommandInput<typeof CHECK_POLICY_OPTIONS>,
): Promise<number> {
  const reports = input.positionals.map((file) => checkOne(file));
  if (input.options.json === true) {
    await printJson(reports.map(({ file, problems, syscalls, instructions }) => ({
      file,
      ok: problems.length === 0,
      syscalls: syscalls ?? null,
      instructions: instructions ?? null,
      problems: problems.map(({ place, message, suggestion }) => ({
        ...place,
        message,
        suggestion: suggestion ?? null,
      })),
    })));
  } else {
    for (const { file, problems, syscalls, instructions } of reports) {
      if (problems.length > 0) continue;
      await print(`${file}: ok, ${syscalls} system calls, ${instructions} instructions\n`);
    }
  }
  const problems = reports.flatMap((report) => report.problems);
  if (problems.length > 0) throw new PolicyError(problems);
  return 0;
}

interface Report {
  readonly file: string;
  readonly problems: readonly PolicyProblem[];
  readonly syscalls?: number;
  readonly instructions?: number;
}

function checkOne(file: string): Report {
  try {
    const policy = load(file);
    const { length } = compilePolicy(policy);
    return { file, problems: [], syscalls: policy.syscalls.length, instructions: length };
  } catch (error) {
    if (error instanceof PolicyError) return { file, problems: error.problems };
    if (!(error instanceof JailError)) throw error;
    const place = { file, line: 1, column: 1 };
    return { file, problems: [{ place, message: error.message.replace(`${file}: `, "") }] };
  }
}

/** Compiles a policy to what the kernel takes, or to something for people or programs to read. */
export async function compile(input: CommandInput<typeof COMPILE_OPTIONS>): Promise<number> {
  const { json, text, output } = input.options;
  if (json === true && text === true) {
    throw new UsageError("expected --json or --text, got both", {
      command: "vmctl policy compile",
    });
  }
  const file = input.positionals[0]!;
  const program = compilePolicy(load(file), { violation: input.options.violation ?? "trap" });
  const content = json === true
    ? encode(`${JSON.stringify({ file, instructions: program }, undefined, 2)}\n`)
    : text === true
    ? encode(`${disassemble(program).join("\n")}\n`)
    : encodeProgram(program);
  if (output !== undefined) {
    await writeFile(output, content);
  } else if (json !== true && text !== true && Deno.stdout.isTerminal()) {
    throw new CommandError(
      "the compiled policy is not for a terminal; redirect it, or use --output FILE, --text or --json",
    );
  } else {
    await print(content);
  }
  return 0;
}

function encode(text: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(text);
}

async function writeFile(path: string, content: Uint8Array): Promise<void> {
  try {
    await Deno.writeFile(path, content);
  } catch (error) {
    throw new CommandError(`cannot write ${path}: ${describeFileError(error)}`);
  }
}

/** Tells what a policy makes of system calls, and by which lines. */
export async function explain(input: CommandInput<typeof EXPLAIN_OPTIONS>): Promise<number> {
  const [file, name, ...words] = input.positionals;
  const policy = load(file!);
  const violation = input.options.violation ?? "trap";
  const program = compilePolicy(policy, { violation });
  const view: View = { policy, violation, program, isJson: input.options.json === true };
  if (name === undefined) await explainAll(view);
  else if (words.length === 0) await explainCall(view, numberOf(name));
  else await explainArguments(view, numberOf(name), words);
  return 0;
}

interface View {
  readonly policy: Policy;
  readonly violation: Violation;
  readonly program: readonly Instruction[];
  readonly isJson: boolean;
}

async function explainAll(view: View): Promise<void> {
  const { policy } = view;
  if (view.isJson) {
    await printJson({
      file: policy.file,
      instructions: view.program.length,
      default: actionText(view, policy.defaultAction),
      syscalls: policy.syscalls.map((call) => callJson(view, call)),
    });
    return;
  }
  const rows = [["CALL", "ACTION", "WHERE", "CONDITION"]];
  for (const call of policy.syscalls.toSorted((a, b) => a.name < b.name ? -1 : 1)) {
    rows.push(...ruleRows(view, call));
  }
  rows.push(["(any other)", actionText(view, policy.defaultAction), defaultWhere(policy), ""]);
  await print(table(rows));
}

async function explainCall(view: View, number: number): Promise<void> {
  const call = view.policy.syscalls.find((candidate) => candidate.number === number);
  if (view.isJson) {
    await printJson({
      file: view.policy.file,
      ...(call === undefined
        ? { name: syscallName(number) ?? null, number, rules: [] }
        : callJson(view, call)),
      default: actionText(view, view.policy.defaultAction),
    });
    return;
  }
  const name = syscallName(number) ?? "unknown";
  await print(`${name} (${number})\n`);
  const otherwise = `${actionText(view, view.policy.defaultAction)}, ${defaultWhere(view.policy)}`;
  if (call === undefined) {
    await print(`  ${otherwise}: the policy does not name it\n`);
    return;
  }
  for (const { condition, action, place } of call.rules) {
    const when = condition === undefined ? "" : ` where ${describeCondition(condition)}`;
    await print(`  ${actionText(view, action)}, ${formatPlace(place)}${when}\n`);
  }
  if (call.rules.at(-1)!.condition !== undefined) await print(`  otherwise ${otherwise}\n`);
}

async function explainArguments(
  view: View,
  number: number,
  words: readonly string[],
): Promise<void> {
  if (words.length > 6) {
    throw new UsageError(`expected at most 6 arguments of a system call, got ${words.length}`, {
      command: "vmctl policy explain",
    });
  }
  const args = words.map((word, index) => evaluateExpression(word, { name: `arg${index}` }));
  const { action, reason } = judge(view.policy, { number, args });
  // What the kernel would do is what the program says; the policy only says why.
  const { value, steps } = simulate(view.program, { number, args });
  const where: Place | undefined = reason.kind === "rule"
    ? reason.rule.place
    : view.policy.defaultPlace;
  const because = {
    "rule": "by this rule",
    "no-match": "none of the call's rules fits",
    "not-named": "the policy does not name it",
    "foreign": "it is a call of another interface",
  }[reason.kind];
  if (view.isJson) {
    await printJson({
      name: syscallName(number) ?? null,
      number,
      args: args.map((arg) => `0x${arg.toString(16)}`),
      action: actionText(view, action),
      returns: value,
      because,
      file: where?.file ?? null,
      line: where?.line ?? null,
      steps,
    });
    return;
  }
  const place = where === undefined ? "by default" : formatPlace(where);
  const shown = args.map((arg) => `0x${arg.toString(16)}`).join(", ");
  await print(
    `${syscallName(number) ?? number}(${shown}): ${describeReturn(value)}, ${place}: ${because}\n`,
  );
}

function callJson(view: View, { name, number, rules }: SyscallRules) {
  return {
    name,
    number,
    rules: rules.map(({ condition, action, place }) => ({
      condition: condition === undefined ? null : describeCondition(condition),
      action: actionText(view, action),
      ...place,
    })),
  };
}

function ruleRows(view: View, call: SyscallRules): string[][] {
  return call.rules.map(({ condition, action, place }: Rule, index) => [
    index === 0 ? call.name : "",
    actionText(view, action),
    formatPlace(place),
    condition === undefined ? (index === 0 ? "" : "otherwise") : describeCondition(condition),
  ]);
}

function actionText(view: View, action: Action): string {
  return describeAction(action, { kill: view.violation });
}

function defaultWhere({ defaultPlace }: Policy): string {
  return defaultPlace === undefined ? "by default" : formatPlace(defaultPlace);
}

/** A policy file of the user's, or one of the program's own. */
function load(file: string): Policy {
  if (!file.startsWith(BUILT_IN)) return loadPolicy(file);
  const name = file.slice(BUILT_IN.length).replace(/\.policy$/, "");
  const names = embeddedPolicyNames().filter((known) => known.endsWith(".policy"))
    .map((known) => known.replace(/\.policy$/, ""));
  if (names.includes(name)) return loadDevicePolicy(name);
  throw new CommandError(`no built-in policy "${name}"; there are: ${names.join(", ")}`);
}

/** The number of a system call that is given by name or number. */
function numberOf(text: string): number {
  const number = /^[0-9]+$/.test(text) ? Number(text) : syscallNumber(text);
  if (number !== undefined && number <= 0xffff_ffff) return number;
  const near = suggest(text, syscallNames());
  const hint = near === undefined ? "" : `; did you mean "${near}"?`;
  throw new UsageError(`SYSCALL: unknown system call "${text}"${hint}`, {
    command: "vmctl policy explain",
  });
}
