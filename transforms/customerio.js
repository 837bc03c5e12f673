// Customer.io: https://docs.customer.io/integrations/api/webhooks/
//
//   name  customerio/email.sent, customerio/email.opened, customerio/sms.delivered, customerio/customer.subscribed, …:
//         the object_type and the metric
//   id    the event's id, the same on each retry
//   ts    when it happened (`timestamp` is in seconds)
//   data  the body as it came: event.data.data holds customer_id, delivery_id, campaign_id, …
function transform(evt, headers, queryParams, raw) {
  if (!evt || !evt.object_type || !evt.metric) {
    throw new Error("this is no Customer.io event: it has no object_type or no metric");
  }
  return {
    id: evt.event_id && `customerio/${evt.event_id}`,
    name: `customerio/${evt.object_type}.${evt.metric}`,
    ts: evt.timestamp ? evt.timestamp * 1000 : undefined,
    data: evt,
  };
}
