/** Where the bus says what it does; a pino logger fits. */
export interface BusLog {
  warn(fields: object, message: string): void;
  debug(fields: object, message: string): void;
}

export const silent: BusLog = { warn: () => undefined, debug: () => undefined };
