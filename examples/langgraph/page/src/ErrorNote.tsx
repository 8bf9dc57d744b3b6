import { adviceOn } from "./errors";

export function ErrorNote({ error, retry, useKey }: { error: unknown; retry?: () => void; useKey: (key: string) => void }) {
  const { title, remedy, needsKey } = adviceOn(error);
  return (
    <div className="alert" role="alert">
      <p><b>{title}</b> {remedy}</p>
      {needsKey ? (
        <form
          onSubmit={(event) => {
            event.preventDefault();
            useKey(String(new FormData(event.currentTarget).get("key")));
          }}
        >
          <input name="key" aria-label="API key" type="password" autoComplete="off" required autoFocus />
          <button className="primary">Use this key</button>
        </form>
      ) : (
        retry && <button onClick={retry}>Try again</button>
      )}
    </div>
  );
}
