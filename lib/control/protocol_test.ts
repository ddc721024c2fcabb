import assert from "node:assert/strict";
import fc from "fast-check";
import { ControlError } from "./errors.ts";
import { encodeMessage, parseRequest, parseResponse, type VmRequest } from "./protocol.ts";

const text = (value: string) => new TextEncoder().encode(value);

Deno.test("parseRequest: the requests of crosvm's clients, as they send them", () => {
  const same: VmRequest[] = [
    "Exit",
    "Powerbtn",
    "Sleepbtn",
    "SuspendVcpus",
    "ResumeVcpus",
    "SuspendVm",
    "ResumeVm",
    "VcpuPidTid",
    "MakeRT",
    { BalloonCommand: "Stats" },
    { BalloonCommand: { Adjust: { num_bytes: 1 << 30, wait_for_success: false } } },
    { DiskCommand: { disk_index: 0, command: { Resize: { new_size: 2 ** 40 } } } },
    {
      Snapshot: {
        Take: { snapshot_path: "/tmp/snap", compress_memory: false, encrypt: false },
      },
    },
    { HotPlugNetCommand: { AddTap: "tap0" } },
    { HotPlugNetCommand: { RemoveTap: 1 } },
    { UsbCommand: { DetachDevice: { port: 1 } } },
    { UsbCommand: { ListDevice: { ports: new Array<number>(16).fill(0) } } },
    {
      RegisterMemory: {
        fd: 0,
        offset: 0,
        range_start: 4096,
        range_end: 8192,
        cache_coherent: false,
      },
    },
    { UnregisterMemory: { region_id: 3 } },
    { Vmctl: "State" },
    { Vmctl: "EngineStats" },
    { Vmctl: { GrowDisk: { disk_index: 1, new_size: 2 ** 40 } } },
  ];
  for (const request of same) assert.deepEqual(parseRequest(encodeMessage(request)), request);
  assert.deepEqual(parseRequest(text(`{"Gpe":{"gpe":3,"clear_evt":null}}`)), { Gpe: { gpe: 3 } });
  assert.equal(parseRequest(text(`{"Exit":null}`)), "Exit");
  assert.equal(parseRequest(text(` "Exit"\n`)), "Exit");
  assert.deepEqual(parseRequest(text(`{"Vmctl":{"State":{}}}`)), { Vmctl: "State" });
});

Deno.test("parseRequest: refuses what is not a request, naming the place", () => {
  const refused: [string, RegExp][] = [
    ["", /empty/],
    ["{", /not JSON/],
    [`"exit"`, /unknown request "exit"/],
    [`"toString"`, /unknown request/],
    [`{"__proto__":{}}`, /unknown request/],
    ["null", /expected a name or an object of one key/],
    ["[]", /expected a name/],
    ["{}", /expected a name/],
    [`{"Exit":null,"Powerbtn":null}`, /expected a name/],
    [`{"Exit":1}`, /Exit: expected nothing, got 1/],
    [`{"BalloonCommand":{"Adjust":{"num_bytes":-1,"wait_for_success":false}}}`, /num_bytes/],
    [`{"BalloonCommand":{"Adjust":{"num_bytes":1.5,"wait_for_success":false}}}`, /num_bytes/],
    [`{"BalloonCommand":{"Adjust":{"num_bytes":1e300,"wait_for_success":false}}}`, /num_bytes/],
    [`{"BalloonCommand":{"Adjust":{"num_bytes":1}}}`, /missing field wait_for_success/],
    [
      `{"BalloonCommand":{"Adjust":{"num_bytes":1,"wait_for_success":0}}}`,
      /expected true or false/,
    ],
    [`{"BalloonCommand":"Burst"}`, /unknown variant "Burst"/],
    [`{"DiskCommand":{"disk_index":0,"command":"Resize"}}`, /Resize: expected an object/],
    [`{"Gpe":{"gpe":256,"clear_evt":null}}`, /0 to 255/],
    [`{"UsbCommand":{"ListDevice":{"ports":[]}}}`, /array of 16/],
    [`{"HotPlugNetCommand":{"AddTap":"a\\u0000b"}}`, /NUL/],
    [
      `{"RegisterMemory":{"fd":99,"offset":0,"range_start":0,"range_end":1,"cache_coherent":true}}`,
      /0 to 15/,
    ],
    [`{"Vmctl":{"Reboot":{}}}`, /unknown variant "Reboot"/],
    [`{"Vmctl":"GrowDisk"}`, /Vmctl.GrowDisk: expected an object/],
    [`{"Vmctl":{"GrowDisk":{"disk_index":0,"new_size":-1}}}`, /GrowDisk.new_size/],
    ["[".repeat(60_000) + "]".repeat(60_000), /request/],
  ];
  for (const [packet, message] of refused) {
    assert.throws(() => parseRequest(text(packet)), (error) => {
      assert(error instanceof ControlError, packet.slice(0, 80));
      assert.match(error.message, message);
      assert(error.message.length < 500);
      return true;
    });
  }
  assert.throws(() => parseRequest(Uint8Array.of(0x22, 0xff, 0x22)), /not UTF-8/);
});

Deno.test("parseRequest: any bytes give a request or a ControlError", () => {
  const check = (packet: Uint8Array) => {
    try {
      parseRequest(packet);
    } catch (error) {
      assert(error instanceof ControlError);
    }
  };
  fc.assert(fc.property(fc.uint8Array({ maxLength: 64 }), check));
  fc.assert(fc.property(fc.json(), (value) => check(text(value))));
  const name = fc.constantFrom(
    "Exit",
    "BalloonCommand",
    "DiskCommand",
    "Gpe",
    "UsbCommand",
    "Vmctl",
  );
  fc.assert(
    fc.property(
      name,
      fc.jsonValue(),
      (key, value) => check(text(JSON.stringify({ [key]: value }))),
    ),
  );
});

Deno.test("parseResponse: answers as they are, garbage refused", () => {
  assert.equal(parseResponse(text(`"Ok"`)), "Ok");
  assert.deepEqual(parseResponse(text(`{"Err":22}`)), { Err: 22 });
  assert.deepEqual(parseResponse(text(`{"ErrString":"no"}`)), { ErrString: "no" });
  assert.throws(() => parseResponse(text(`7`)), ControlError);
  assert.throws(() => parseResponse(text(`{"ErrString":7}`)), ControlError);
});
