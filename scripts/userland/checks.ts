/**
 * What a Debian userland does to show that the processor is right.
 *
 * @module
 */

/** A command in the guest. */
export interface Check {
  readonly name: string;
  /** For bash; its standard output and error are kept. */
  readonly command: string;
  /** What its output holds when it is right; its status is 0 as well. */
  readonly expected: RegExp;
  /** Left out of a quick run. */
  readonly slow?: boolean;
}

const C_PROGRAM = String.raw`#include <math.h>
#include <stdio.h>
int main(void) {
  double sum = 0;
  for (int i = 1; i < 1000000; i++) sum += 1.0 / i / i;
  long double third = 1.0L / 3;
  printf("%.12f %.12f %.18Lf\n", sum, sqrt(sum * 6), third);
  return 0;
}`;

/** Python's own tests that look at the language, arithmetic, strings, processes and threads. */
const PYTHON_QUICK = ["grammar", "float", "int", "struct", "hashlib"];
const PYTHON_CORE = [
  ...["array", "bytes", "cmath", "complex", "decimal", "dict", "fork1", "fractions", "functools"],
  ...["generators", "itertools", "json", "list", "long", "math", "mmap", "operator", "pickle"],
  ...["pipes", "random", "re", "select", "set", "signal", "sort", "statistics", "strtod", "thread"],
  ...["tuple", "unicode", "zlib"],
];

/** The checks, in the order in which they run. */
export const CHECKS: readonly Check[] = [
  {
    name: "bash",
    command: "for i in $(seq 1000); do sum=$((sum + i)); done; echo $sum; echo ${BASH_VERSION}",
    expected: /^500500$/m,
  },
  {
    name: "python3",
    command:
      `python3 -c 'import math, sys; print(sys.version_info[0], math.sqrt(2), 3 ** 200 % 997)'`,
    expected: /^3 1\.4142135623730951 \d+$/m,
  },
  {
    name: "gcc",
    command: `cat > /tmp/a.c << 'END'
${C_PROGRAM}
END
gcc -O2 -o /tmp/a /tmp/a.c -lm && /tmp/a`,
    expected: /^1\.644933066848 3\.141591698660 0\.333333333333333333$/m,
  },
  {
    name: "dpkg",
    command: "dpkg -i /debs/hello_*.deb && hello && dpkg -V hello",
    expected: /^Hello, world!$/m,
  },
  {
    name: "openssl digests and ciphers",
    command: `printf abc > /tmp/abc
for a in md5 sha1 sha256 sha512 sha3-256 blake2b512; do openssl dgst -$a /tmp/abc; done
openssl rand 1000000 > /tmp/r
for c in aes-256-cbc aes-128-ctr camellia-256-cbc chacha20 des-ede3-cbc; do
  openssl enc -$c -pbkdf2 -k x -in /tmp/r -out /tmp/e &&
    openssl enc -d -$c -pbkdf2 -k x -in /tmp/e | cmp - /tmp/r && echo $c round
done`,
    expected: new RegExp(
      "900150983cd24fb0d6963f7d28e17f72[^]*a9993e364706816aba3e25717850c26c9cd0d89d[^]*" +
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad[^]*" +
        "cbc round[^]*ctr round[^]*cbc round[^]*chacha20 round[^]*cbc round",
    ),
  },
  {
    name: "openssl speed",
    command:
      "openssl speed -seconds 1 -bytes 8192 sha256 aes-128-cbc && openssl speed -seconds 1 rsa2048 ecdsap256",
    expected: /^rsa 2048 bits[^]*ecdsa/m,
    slow: true,
  },
  {
    name: "openssl signatures",
    command: `openssl genrsa -out /tmp/k 1024 && openssl rsa -in /tmp/k -check -noout &&
openssl rsa -in /tmp/k -pubout -out /tmp/p &&
openssl dgst -sha256 -sign /tmp/k -out /tmp/s /tmp/k &&
openssl dgst -sha256 -verify /tmp/p -signature /tmp/s /tmp/k`,
    expected: /RSA key ok[^]*Verified OK/,
  },
  {
    name: "python3 tests",
    command: `python3 -m test ${PYTHON_QUICK.map((name) => `test_${name}`).join(" ")}`,
    expected: /^Tests result: SUCCESS$/m,
  },
  {
    name: "python3 core tests",
    command: `python3 -m test ${PYTHON_CORE.map((name) => `test_${name}`).join(" ")}`,
    expected: /^Tests result: SUCCESS$/m,
    slow: true,
  },
  {
    name: "stress-ng --verify",
    command:
      "stress-ng --cpu 2 --vm 1 --vm-bytes 64M --fp 1 --vecmath 1 --qsort 1 --atomic 2 --switch 1 --timeout 20 --verify",
    expected: /successful run completed/,
    slow: true,
  },
];

const BEGIN = "@begin";
const END = "@end";

/** The script that runs `checks` in the guest. */
export function scriptOf(checks: readonly Check[]): string {
  return checks.map(({ command }, n) =>
    `echo "${BEGIN} ${n}"
start=$(date +%s%N)
( ${command} ) > /tmp/output 2>&1 < /dev/null
status=$?
tail -c 8000 /tmp/output
echo
echo "${END} ${n} $status $((($(date +%s%N) - start) / 1000000))"
`
  ).join("");
}

/** How a check went. */
export interface CheckResult {
  readonly check: Check;
  readonly passed: boolean;
  /** By the guest's clock. */
  readonly milliseconds: number;
  readonly output: string;
}

/** Reads what {@link scriptOf}'s guest prints. */
export class CheckReader {
  /** Results so far. */
  readonly results: CheckResult[] = [];
  readonly #checks: readonly Check[];
  #lines: string[] = [];

  constructor(checks: readonly Check[]) {
    this.#checks = checks;
  }

  /** Takes a line; gives the result that it ends. */
  line(text: string): CheckResult | undefined {
    const [word, number, status, milliseconds] = text.split(" ");
    if (word === BEGIN) this.#lines = [];
    const check = this.#checks[Number(number)];
    if (word !== END || check === undefined) {
      if (word !== BEGIN) this.#lines.push(text);
      return undefined;
    }
    const output = this.#lines.join("\n");
    const result = {
      check,
      passed: status === "0" && check.expected.test(output),
      milliseconds: Number(milliseconds),
      output,
    };
    this.results.push(result);
    return result;
  }
}
