/// <reference lib="deno.unstable" />

/**
 * The project's own lint rules, loaded by `deno lint` (see deno.json), so that editors show them too.
 *
 * @module
 */

import { dirname, join, relative, sep } from "node:path";
import { fileURLToPath } from "node:url";

/** Folders of lib/ in reading order: each imports only from those above it. */
export const LAYERS: readonly string[] = [
  "base",
  "config",
  "host",
  "memory",
  "disk",
  "net",
  "jail",
  "hypervisor",
  "virtio",
  "boot",
  "devices",
  "machine",
  "plugin",
  "control",
  "cli",
];

const ROOT = fileURLToPath(new URL("../../", import.meta.url));

/** A path below the checkout with forward slashes, or undefined for one outside of it. */
function projectPath(path: string): string | undefined {
  const found = relative(ROOT, path);
  if (found.startsWith("..")) return undefined;
  return found.split(sep).join("/");
}

function layerOf(path: string): string | undefined {
  return /^lib\/([^/]+)\//.exec(path)?.[1];
}

function isTest(path: string): boolean {
  return path.endsWith("_test.ts") || path.startsWith("tests/");
}

/**
 * What is wrong with an import of `specifier` in the file `from` (relative to the checkout), or
 * undefined.
 */
export function importProblem(from: string, specifier: string): string | undefined {
  if (!specifier.startsWith(".")) {
    if (/^(node:|[@a-z])/.test(specifier) && !/^(npm|jsr|https?|file|data):/.test(specifier)) {
      return undefined;
    }
    return `"${specifier}": expected a relative path, node:…, or a name that deno.json pins`;
  }
  const target = join(dirname(from), specifier).split(sep).join("/");
  const own = layerOf(from);
  const other = layerOf(target);
  if (target.startsWith("..")) return `"${specifier}" lies outside of the project`;
  if (own === undefined) {
    if (from === "main.ts" && other !== undefined && !target.endsWith("/mod.ts")) {
      return `"${specifier}": another folder is imported through its mod.ts`;
    }
    return undefined;
  }
  if (other === own) return undefined;
  if (other === undefined) {
    if (isTest(from) && (target.startsWith("tests/") || target.startsWith("scripts/"))) {
      return undefined;
    }
    // Policies are files of their own, so that their users can read and replace them.
    if (own === "jail" && /^policies\/[a-z0-9_]+\.(policy|frequency)$/.test(target)) {
      return undefined;
    }
    return `"${specifier}": lib/ imports nothing from outside of lib/`;
  }
  const ownLevel = LAYERS.indexOf(own);
  const otherLevel = LAYERS.indexOf(other);
  if (ownLevel < 0 || otherLevel < 0) {
    return `lib/${ownLevel < 0 ? own : other} is no folder of the design`;
  }
  if (otherLevel > ownLevel && !isTest(from)) {
    return `lib/${own} imports from lib/${other}, which lies below it (order: ${
      LAYERS.join(", ")
    })`;
  }
  if (!target.endsWith(`lib/${other}/mod.ts`) && !isTest(from)) {
    return `"${specifier}": another folder is imported through its mod.ts`;
  }
  return undefined;
}

function literal(node: unknown): string | undefined {
  if (typeof node !== "object" || node === null) return undefined;
  const { type, value, literal: inner } = node as {
    type?: unknown;
    value?: unknown;
    literal?: unknown;
  };
  if (type === "TSLiteralType") return literal(inner);
  return type === "Literal" && typeof value === "string" ? value : undefined;
}

/** `import` and `export … from`, static, dynamic and in types. */
const importDirection: Deno.lint.Rule = {
  create(context) {
    const path = projectPath(context.filename);
    if (path === undefined) return {};
    const check = (node: Deno.lint.Node, source: unknown) => {
      const specifier = literal(source);
      if (specifier === undefined) return;
      const message = importProblem(path, specifier);
      if (message !== undefined) context.report({ node, message });
    };
    return {
      ImportDeclaration: (node) => check(node, node.source),
      ExportNamedDeclaration: (node) => check(node, node.source),
      ExportAllDeclaration: (node) => check(node, node.source),
      ImportExpression: (node) => check(node, node.source),
      TSImportType: (node) => check(node, node.argument),
    };
  },
};

/** Foreign functions are called in lib/host only, where each call says why it is safe. */
const dlopenInHost: Deno.lint.Rule = {
  create(context) {
    const path = projectPath(context.filename);
    if (path === undefined || layerOf(path) === "host") return {};
    return {
      'MemberExpression[object.name="Deno"][property.name="dlopen"]'(node: Deno.lint.Node) {
        context.report({ node, message: "Deno.dlopen outside of lib/host" });
      },
    };
  },
};

const noDefaultExport: Deno.lint.Rule = {
  create(context) {
    const path = projectPath(context.filename);
    // The linter wants a plugin to be a default export.
    if (path === undefined || path === "scripts/check/lint_plugin.ts") return {};
    return {
      ExportDefaultDeclaration(node) {
        context.report({ node, message: "export by name, not by default" });
      },
    };
  },
};

const fileName: Deno.lint.Rule = {
  create(context) {
    const path = projectPath(context.filename);
    if (
      path === undefined || path.split("/").every((part) => /^\.?[a-z0-9_]+(\.ts)?$/.test(part))
    ) {
      return {};
    }
    return {
      Program(node) {
        context.report({ node, message: `${path}: expected a snake_case name ending in .ts` });
      },
    };
  },
};

/** What other files can use says what it is. */
const documentedExport: Deno.lint.Rule = {
  create(context) {
    const path = projectPath(context.filename);
    if (path === undefined || layerOf(path) === undefined || isTest(path)) return {};
    return {
      ExportNamedDeclaration(node) {
        if (node.declaration === null) return;
        const text = context.sourceCode.text.slice(0, node.range[0]);
        // Constants that stand line under line share the first one's comment.
        if (/^export const .*;\n$/m.test(text.slice(text.lastIndexOf("\n", text.length - 2) + 1))) {
          return;
        }
        const before = text.trimEnd();
        if (before.endsWith("*/") && before.lastIndexOf("/**") === before.lastIndexOf("/*")) return;
        context.report({ node, message: "an exported declaration carries a JSDoc comment" });
      },
    };
  },
};

const plugin: Deno.lint.Plugin = {
  name: "vmctl",
  rules: {
    "import-direction": importDirection,
    "dlopen-in-host": dlopenInHost,
    "no-default-export": noDefaultExport,
    "file-name": fileName,
    "documented-export": documentedExport,
  },
};

export default plugin;
