import type { Desk } from "./desk";
import type { Step } from "./steps";

const MARKS = { running: "", stopped: "–", done: "✓", paused: "?", failed: "!" };

/** The steps of the last run, those of a subgraph below the node that started it, and what the subgraph writes. */
export function StepsPane({ desk, close }: { desk: Desk; close: () => void }) {
  const { steps, drafts, chat } = desk;
  const stateOf = (step: Step) => (step.state === "running" && !chat.isLoading ? "stopped" : step.state);
  return (
    <aside aria-label="Steps">
      <header>
        <h2>Steps</h2>
        <button className="icon medium" aria-label="Close the steps" onClick={close}>×</button>
      </header>
      {steps.length === 0 && <p className="hint">The nodes of the graph appear here while they run.</p>}
      <ol>
        {steps.map((step) => (
          <li key={step.id} className={stateOf(step)} data-depth={step.depth}>
            <span className="mark" aria-hidden>{MARKS[stateOf(step)]}</span>
            <span className="name">{step.name}</span>
            {step.detail && <span className="detail">{step.detail}</span>}
          </li>
        ))}
      </ol>
      {drafts.map((draft, index) => <p className="draft" key={index}>{draft}</p>)}
    </aside>
  );
}
