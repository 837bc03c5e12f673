// OpenAI: https://platform.openai.com/docs/guides/webhooks
//
//   name  openai/response.completed, openai/batch.completed, openai/fine_tuning.job.succeeded, …: the event's type
//   id    the event's id, the same on each retry
//   ts    when the event was made (`created_at` is in seconds)
//   data  the event as it came: event.data.data.id is the response, batch, job or run; fetch it by that id
function transform(evt, headers, queryParams, raw) {
  if (!evt || typeof evt.type !== "string" || !evt.data) {
    throw new Error("this is no OpenAI event: it has no type or no data");
  }
  return {
    id: evt.id && `openai/${evt.id}`,
    name: `openai/${evt.type}`,
    ts: evt.created_at ? evt.created_at * 1000 : undefined,
    data: evt,
  };
}
