/**
 * What is bundled for workers: the part of main.ts that they need.
 *
 * @module
 */

import { startWorker } from "../../lib/machine/worker_main.ts";

startWorker();
