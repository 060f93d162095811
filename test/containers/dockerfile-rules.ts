/** What hadolint would say of a Dockerfile, as far as it matters here. Each problem begins with the name of its rule. */
export function dockerfileProblems(text: string): string[] {
  const problems: string[] = [];
  const instructions = text
    .replaceAll(/^#.*\n/gm, "")
    .replaceAll(/\\\n/g, " ")
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "")
    .map((line) => ({ line, name: line.split(" ")[0]?.toUpperCase() ?? "", rest: line.slice(line.indexOf(" ") + 1).trim() }));
  const stages = new Set<string>();
  let user = "root";
  let checked = false;
  const users = new Map<string, { user: string; checked: boolean }>();
  let stage = "";
  for (const { line, name, rest } of instructions) {
    if (name === "FROM") {
      if (stage !== "") users.set(stage, { user, checked });
      const [image = "", , alias = ""] = rest.split(/\s+/);
      const from = users.get(image);
      if (!stages.has(image) && !/:\d+\.\d+\.\d+/.test(image)) problems.push(`pinned: ${image} names no exact version`);
      stage = alias || "last";
      stages.add(stage);
      user = from?.user ?? "root";
      checked = from?.checked ?? false;
    }
    if (name === "USER") user = rest;
    if (name === "HEALTHCHECK") checked = true;
    if (name === "ADD") problems.push(`no-add: ${line} does more than it says; use COPY`);
    if (/--mount=|--chmod=|<<\w/.test(line) && ["RUN", "COPY"].includes(name))
      problems.push(`buildkit: ${line} needs BuildKit, which Debian's engine does not have`);
    if (name === "RUN" && /apt-get install/.test(rest) && !/--no-install-recommends/.test(rest))
      problems.push(`apt: ${line} installs what is only recommended`);
    if ((name === "CMD" || name === "ENTRYPOINT") && !rest.startsWith("["))
      problems.push(`exec-form: ${line} puts a shell before the program, and signals end there`);
    if (name === "HEALTHCHECK" && !/(CMD \[|NONE)/.test(rest)) problems.push(`exec-form: ${line} starts a shell for every check`);
    if (["ENV", "ARG"].includes(name) && /\b\w*(TOKEN|SECRET|PASSWORD|SEED)\w*\s*[= ]/i.test(rest))
      problems.push(`secret: ${line} stays in the image's history`);
  }
  if (/^(root|0)(:|$)/.test(user)) problems.push("user: the last stage runs as root");
  if (!checked) problems.push("healthcheck: the last stage has no HEALTHCHECK");
  return problems;
}
