import assert from "node:assert/strict";
import { HypervisorError } from "../../../errors.ts";
import { tierOfEnvironment } from "./tier.ts";

Deno.test("the environment names a tier, none, or one that there is not", () => {
  const before = Deno.env.get("VMCTL_SOFT_TIER");
  const tierOf = (value: string) => {
    Deno.env.set("VMCTL_SOFT_TIER", value);
    return tierOfEnvironment();
  };
  try {
    assert.equal(tierOf("random"), "random");
    assert.equal(tierOf(""), "auto");
    assert.throws(
      () => tierOf("fast"),
      (error) => error instanceof HypervisorError && /got "fast"$/.test(error.message),
    );
    Deno.env.delete("VMCTL_SOFT_TIER");
    assert.equal(tierOfEnvironment(), "auto");
  } finally {
    if (before === undefined) Deno.env.delete("VMCTL_SOFT_TIER");
    else Deno.env.set("VMCTL_SOFT_TIER", before);
  }
});
