import { defineConformance } from "./suite.ts";

defineConformance("soft", "elsewhere");
