/**
 * Tags and exceptions of WebAssembly (JavaScript API, "Exception handling"), which TypeScript's own
 * declarations do not have yet.
 *
 * @module
 */

/** Identity of a kind of exception. */
export interface Tag {
  readonly tag?: never;
}

/** An exception that crossed, or will cross, WebAssembly frames. */
export interface WasmException {
  /** True where it was thrown with `tag`. */
  is(tag: Tag): boolean;
}

interface Api {
  readonly Tag: new (type: { parameters: string[] }) => Tag;
  readonly Exception: new (tag: Tag, values: unknown[]) => WasmException;
}

const api = WebAssembly as unknown as Api;

/** Makes a tag without values. */
export function createTag(): Tag {
  return new api.Tag({ parameters: [] });
}

/** An exception of `tag`, to be thrown. */
export function createException(tag: Tag): WasmException {
  return new api.Exception(tag, []);
}

/** True where `error` is an exception of `tag`. */
export function isException(error: unknown, tag: Tag): boolean {
  return error instanceof api.Exception && error.is(tag);
}
