import { defineConformance } from "./suite.ts";

defineConformance("soft", "translator-forced");
