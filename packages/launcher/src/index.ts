export { lockDataDir, type StackFile } from "./data-dir.ts";
export { type LauncherWorld, runLauncher } from "./launcher.ts";
