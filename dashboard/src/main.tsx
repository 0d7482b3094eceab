import "uplot/dist/uPlot.min.css";
import "./style.css";
import { render } from "preact";
import { Activity } from "./activity";
import { follow } from "./daemon";
import { Misses } from "./misses";
import { Node } from "./node";
import { Peers } from "./peers";
import { Store } from "./store";
import { Header, Summary } from "./summary";
import { Requested, Served } from "./tops";
import { TrafficPlot } from "./traffic";
import { Transfers } from "./transfers";

function App() {
  return (
    <>
      <Header />
      <main id="main" tabIndex={-1}>
        <Summary />
        <Transfers />
        <TrafficPlot />
        <Misses />
        <Store />
        <Peers />
        <Requested />
        <Served />
        <Activity />
        <Node />
      </main>
    </>
  );
}

const root = document.getElementById("app");
if (root !== null) {
  root.textContent = "";
  render(<App />, root);
  follow();
}
