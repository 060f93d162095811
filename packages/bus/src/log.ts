/** Where the bus says what it does; a pino logger fits. */
export interface BusLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
}

export const silent: BusLog = { info: () => undefined, warn: () => undefined };
