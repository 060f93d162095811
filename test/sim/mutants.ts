/** A change of production source that a guarantee has to catch. */
export interface Mutant {
  readonly name: string;
  readonly guarantee: string;
  readonly what: string;
  /** From the repository's root. */
  readonly file: string;
  readonly find: string;
  readonly put: string;
}

export const mutants: readonly Mutant[] = [];

/** Changes the source while it is loaded. Throws a `RangeError` for a name that is not known. */
export function installMutant(name: string): void {
  const mutant = mutants.find((one) => one.name === name);
  if (mutant === undefined) throw new RangeError(`no mutant ${name}: see --list-mutants`);
}
