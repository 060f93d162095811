export {
  type AppliedConfiguration,
  type ApplyConfigurationOptions,
  applyConfiguration,
  ConfigContendedError,
  ConfigTooLargeError,
} from "./apply-configuration.ts";
