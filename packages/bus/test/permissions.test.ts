import { permissions } from "./permissions.ts";

permissions();
