// Filters the traces; without it all of them are shown.
const form = document.getElementById("filter");
if (form) {
  const traces = [...document.querySelectorAll(".trace")];
  const show = () => {
    const wanted = [...new FormData(form)].filter(([, value]) => value);
    let shown = 0;
    for (const trace of traces) {
      trace.hidden = !wanted.every(([name, value]) => trace.dataset[name] === value);
      shown += !trace.hidden;
    }
    form.querySelector("output").textContent = `${shown} of ${traces.length} shown`;
  };
  form.addEventListener("input", show);
  form.hidden = false;
  show();
}
