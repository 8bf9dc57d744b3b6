import "./app.css";
import { createRoot } from "react-dom/client";
import { MyAssistant } from "./MyAssistant";

createRoot(document.getElementById("root")!).render(<MyAssistant />);
