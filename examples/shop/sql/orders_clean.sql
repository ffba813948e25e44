-- One change in, at most one change out: a model is a projection and a filter of one table.
-- Deletes pass the filter; an update that leaves it becomes a delete of the row in the target.
SELECT
  order_id,
  customer_id,
  lower(trim(email)) AS email,
  status,
  upper(currency) AS currency,
  amount,
  discount,
  amount - discount AS net_amount,
  CASE WHEN amount >= 500 THEN 'large' WHEN amount >= 100 THEN 'medium' ELSE 'small' END AS size,
  CAST(placed_at AS DATE) AS placed_on,
  placed_at,
  note
FROM store.orders
WHERE status <> 'draft'
