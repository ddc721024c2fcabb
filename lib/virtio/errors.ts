import { VmctlError } from "../base/mod.ts";

/** A queue, chain or memory of a device that is used against its rules. */
export class VirtioError extends VmctlError {
  override readonly name: string = "VirtioError";
}

/** How a connection between a vhost-user front end and back end failed. */
export type VhostUserErrorKind =
  /** The peer sent what the protocol forbids. */
  | "violation"
  /** The peer closed the connection or died. */
  | "closed"
  /** The peer did not answer or did not read in time. */
  | "timeout"
  /** The peer refused a request (REPLY_ACK). */
  | "refused"
  /** The peer lacks something that is needed. */
  | "unsupported";

/** A vhost-user connection failed. */
export class VhostUserError extends VirtioError {
  override readonly name = "VhostUserError";
  /** How. */
  readonly kind: VhostUserErrorKind;

  constructor(kind: VhostUserErrorKind, message: string, options?: ErrorOptions) {
    super(message, options);
    this.kind = kind;
  }
}
