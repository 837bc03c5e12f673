// Plaid: https://plaid.com/docs/api/webhooks/
//
//   name  plaid/transactions.sync_updates_available, plaid/item.error, plaid/auth.automatically_verified, …:
//         webhook_type and webhook_code in small letters
//   id    not given: Plaid's webhooks have none, and the same text may rightly come again
//   ts    not given: they hold no time, so it is the time of receipt
//   data  the webhook as it came. Most only name the item (event.data.item_id); fetch what has changed from Plaid.
function transform(evt, headers, queryParams, raw) {
  if (!evt || !evt.webhook_type || !evt.webhook_code) {
    throw new Error("this is no Plaid webhook: it has no webhook_type or no webhook_code");
  }
  return {
    name: `plaid/${evt.webhook_type.toLowerCase()}.${evt.webhook_code.toLowerCase()}`,
    data: evt,
  };
}
