/**
 * What workers of tests load: as main.ts does in a worker, without all that the program is otherwise.
 *
 * @module
 */

import { startWorker } from "../../worker_main.ts";

if ("WorkerGlobalScope" in globalThis) startWorker();
