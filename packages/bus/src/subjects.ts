/** Whether a subject matches a NATS filter: `*` is one token, `>` at the end is one or more. */
export function subjectMatches(filter: string, subject: string): boolean {
  if (filter === subject || filter === ">") return true;
  const want = filter.split(".");
  const have = subject.split(".");
  for (let index = 0; index < want.length; index += 1) {
    if (want[index] === ">") return have.length > index;
    if (index >= have.length || (want[index] !== "*" && want[index] !== have[index])) return false;
  }
  return want.length === have.length;
}
