export { type FaultListener, faultListener } from "./config.ts";
export { type ProxyOptions, type ProxyView, startProxy, type TcpProxy } from "./proxy.ts";
export { startFaultProxy } from "./start.ts";
