// Jira: https://developer.atlassian.com/cloud/jira/platform/webhooks/
//
//   name  jira/issue.created, jira/comment.updated, jira/sprint.started, jira/issue_property.set, …: the webhookEvent
//         without jira:, with a dot before its verb
//   id    X-Atlassian-Webhook-Identifier, the same on each retry (Jira Cloud)
//   ts    `timestamp`, already in milliseconds
//   data  the payload as it came: event.data.issue.key, event.data.changelog.items
function transform(evt, headers, queryParams, raw) {
  if (!evt || !evt.webhookEvent) {
    throw new Error("this is no Jira event: it has no webhookEvent");
  }
  var ts = new Date(evt.timestamp).getTime();
  var delivery = headers["X-Atlassian-Webhook-Identifier"];
  return {
    id: delivery && `jira/${delivery}`,
    name: `jira/${nameOf(evt.webhookEvent)}`,
    ts: isNaN(ts) ? undefined : ts,
    data: evt,
  };
}

// jira:issue_created → issue.created; issue_property_set → issue_property.set
function nameOf(webhookEvent) {
  var words = webhookEvent.toLowerCase().replace(/^jira:/, "");
  return words.replace(/_(soft_deleted|restored_deleted|[a-z]+)$/, ".$1");
}
