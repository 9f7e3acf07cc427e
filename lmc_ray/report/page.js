// Draws every plot of the page, and again where its colours or its width change.
"use strict";
const plots = [...document.querySelectorAll(".plot")].map((place) => ({
  place,
  ...JSON.parse(document.getElementById(`${place.id}-data`).textContent),
}));
const dark = matchMedia("(prefers-color-scheme: dark)");
const PRINTED_WIDTH = 1000; // pixels, which the style makes as wide as A4
const CONFIG = {
  responsive: true,
  displaylogo: false,
  plotlyServerURL: "", // nothing leaves the page
  modeBarButtonsToRemove: ["sendChartToCloud", "lasso2d", "select2d"],
};

function colours(scheme) {
  const [paper, ink, rule] = scheme === "dark"
    ? ["#14171b", "#e4e7eb", "#363d46"]
    : ["#ffffff", "#1b1f24", "#e1e5ea"];
  const axis = { gridcolor: rule, linecolor: ink, zerolinecolor: rule, ticks: "outside", tickcolor: rule };
  return {
    layout: {
      paper_bgcolor: paper,
      plot_bgcolor: paper,
      font: { color: ink, size: 13, family: getComputedStyle(document.body).fontFamily },
      xaxis: axis,
      yaxis: axis,
      hoverlabel: { bgcolor: paper, bordercolor: ink, font: { color: ink }, align: "left" },
      legend: { bgcolor: "rgba(0,0,0,0)" },
      annotationdefaults: { font: { size: 13, color: ink } },
    },
  };
}

function draw({ place, data, layout }, scheme, width) {
  const themed = { ...layout, template: colours(scheme), width, autosize: width === undefined };
  return Plotly.react(place, data, themed, CONFIG);
}

function drawAll() {
  return Promise.all(plots.map((plot) => draw(plot, dark.matches ? "dark" : "light")));
}

dark.addEventListener("change", drawAll);
addEventListener("beforeprint", () => plots.forEach((plot) => draw(plot, "light", PRINTED_WIDTH)));
addEventListener("afterprint", drawAll);
drawAll().then(() => { document.documentElement.dataset.drawn = plots.length; });
