/** Calls a function of the host's that wants to hear something: what it throws, also later, is told and harms nothing else. */
export function tellListener<A>(listener: (value: A) => unknown, value: A, onError: (error: unknown) => void): void {
  try {
    const answer = listener(value);
    // An `async` one passes for a listener in TypeScript, and its rejection would end the process.
    if (answer instanceof Promise) answer.catch(onError);
  } catch (error) {
    onError(error);
  }
}
