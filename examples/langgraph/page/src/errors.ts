// What an error means, and what to do about it.

export type Advice = { title: string; remedy: string; needsKey?: boolean };

export function adviceOn(error: unknown): Advice {
  const { status, message } = fields(error);
  if (status === 401) {
    return { title: "The server needs an API key.", remedy: "Enter yours below.", needsKey: true };
  }
  if (status === 403) {
    return { title: "This key may not do that.", remedy: `Use a key with more permissions. ${message}` };
  }
  if (status === 404) {
    return { title: "The server does not have this thread.", remedy: "Start a new chat: the thread was removed, or belongs to another key." };
  }
  if (status === 409) {
    return { title: "The thread is busy with another run.", remedy: "Wait until it has ended, or stop it, and send again." };
  }
  if (status === 422) {
    return { title: "The server refused the request.", remedy: `${message} Correct the message and send again.` };
  }
  if (status === 429) {
    return { title: "These are too many requests.", remedy: "Send again in a few seconds." };
  }
  if (status === 503) {
    return { title: "The server cannot answer at the moment.", remedy: `${message} Send again in a few seconds.` };
  }
  if (isUnreachable(error)) {
    return {
      title: "The server cannot be reached.",
      remedy: "Start it, or check the network. The page retries; runs that are in progress continue without it.",
    };
  }
  return { title: `The run failed: ${message}`, remedy: "Try again continues at the step that failed. Edit the message to ask something else." };
}

export function isUnreachable(error: unknown): boolean {
  const { name, message } = fields(error);
  return name === "TypeError" || /unable to connect|failed to fetch|network error/i.test(message);
}

function fields(error: unknown): { status?: number; name?: string; message: string } {
  if (typeof error !== "object" || error === null) return { message: String(error) };
  const { status, name, message } = error as { status?: number; name?: string; message?: string };
  return { status, name, message: detailOf(message) || name || "unknown error" };
}

/** The detail that the server gave: `HTTP 422: {"detail": "…"}`. */
function detailOf(message: string | undefined): string | undefined {
  const text = message?.match(/^HTTP \d+: (\{.*\})/s)?.[1];
  if (!text) return message;
  try {
    const { detail } = JSON.parse(text) as { detail?: unknown };
    return typeof detail === "string" ? detail : text;
  } catch {
    return message;
  }
}
