import { z } from "zod";

/**
 * The warehouse behind both implementations: the MCP server and the legacy HTTP API answer from here, in one shape. `source` tells
 * which of the two answered.
 */
export const source = z.enum(["mcp", "legacy"]);
export type Source = z.infer<typeof source>;

export const inventoryQuery = z.object({
  sku: z.string().max(64).optional().describe("Only this article"),
  below: z.coerce.number().int().nonnegative().optional().describe("Only articles with less than this in stock"),
});
export const inventory = z.object({
  source,
  items: z.array(z.object({ sku: z.string(), name: z.string(), aisle: z.string(), quantity: z.number().int() })),
  totalQuantity: z.number().int(),
});
export type Inventory = z.infer<typeof inventory>;

export const orderStatus = z.enum(["open", "picking", "shipped"]);
export const ordersQuery = z.object({
  status: orderStatus.optional().describe("Only orders in this state"),
  limit: z.coerce.number().int().min(1).max(100).default(10).describe("At most so many, newest first"),
});
export const orders = z.object({
  source,
  orders: z.array(
    z.object({
      id: z.string(),
      status: orderStatus,
      placedAt: z.iso.datetime(),
      lines: z.array(z.object({ sku: z.string(), quantity: z.number().int() })),
    }),
  ),
});
export type Orders = z.infer<typeof orders>;

const articles = [
  { sku: "PAL-1200", name: "Euro pallet 1200 x 800", aisle: "A-01", quantity: 240 },
  { sku: "BOX-0400", name: "Folding box 400 mm", aisle: "A-07", quantity: 1850 },
  { sku: "TAPE-050", name: "Packing tape 50 mm", aisle: "B-02", quantity: 36 },
  { sku: "LBL-0100", name: "Shipping labels, roll of 500", aisle: "B-03", quantity: 12 },
  { sku: "STRAP-16", name: "Strapping band 16 mm", aisle: "C-11", quantity: 75 },
] as const;

const placed: Orders["orders"] = [
  { id: "SO-1005", status: "open", placedAt: "2026-01-15T09:40:00Z", lines: [{ sku: "LBL-0100", quantity: 4 }] },
  { id: "SO-1004", status: "picking", placedAt: "2026-01-15T08:12:00Z", lines: [{ sku: "BOX-0400", quantity: 300 }] },
  {
    id: "SO-1003",
    status: "picking",
    placedAt: "2026-01-14T16:05:00Z",
    lines: [
      { sku: "PAL-1200", quantity: 12 },
      { sku: "STRAP-16", quantity: 12 },
    ],
  },
  { id: "SO-1002", status: "shipped", placedAt: "2026-01-14T11:30:00Z", lines: [{ sku: "TAPE-050", quantity: 10 }] },
  { id: "SO-1001", status: "shipped", placedAt: "2026-01-13T14:00:00Z", lines: [{ sku: "BOX-0400", quantity: 120 }] },
];

export function findInventory(query: z.infer<typeof inventoryQuery>, from: Source): Inventory {
  const items = articles.filter(
    ({ sku, quantity }) => (query.sku === undefined || sku === query.sku) && (query.below === undefined || quantity < query.below),
  );
  return { source: from, items: [...items], totalQuantity: items.reduce((sum, { quantity }) => sum + quantity, 0) };
}

export function findOrders(query: z.infer<typeof ordersQuery>, from: Source): Orders {
  const found = placed.filter(({ status }) => query.status === undefined || status === query.status);
  return { source: from, orders: found.slice(0, query.limit) };
}
