/**
 * What is bundled for processes of devices: the part of main.ts that they need.
 *
 * @module
 */

import { runDeviceProcess } from "../../lib/devices/frame/device_process.ts";

runDeviceProcess(Deno.args[1] ?? "").then(Deno.exit);
