import { defineConformance } from "./suite.ts";

defineConformance("kvm");
