/**
 * `vmctl completions`.
 *
 * @module
 */

import { suggest } from "../../config/mod.ts";
import type { CommandInput } from "../command.ts";
import { bashCompletions } from "../completions/bash.ts";
import { fishCompletions } from "../completions/fish.ts";
import { zshCompletions } from "../completions/zsh.ts";
import { UsageError } from "../errors.ts";
import { print } from "../output.ts";
import { ROOT, SHELLS } from "../tree.ts";

/** Prints the script for a shell. */
export async function completions(input: CommandInput): Promise<number> {
  const shell = input.positionals[0]!;
  switch (shell) {
    case "bash":
      await print(bashCompletions(ROOT));
      return 0;
    case "zsh":
      await print(zshCompletions(ROOT));
      return 0;
    case "fish":
      await print(fishCompletions(ROOT));
      return 0;
    default: {
      const near = suggest(shell, SHELLS);
      const hint = near === undefined ? "" : `; did you mean "${near}"?`;
      throw new UsageError(`SHELL: expected bash, zsh or fish, got "${shell}"${hint}`, {
        command: "vmctl completions",
      });
    }
  }
}
