// Runs before MLflow's own script: keeps, where MLflow keeps how a person wants its pages, how the
// run table of each experiment is to look. Whatever the person has changed since stays.
((views) => {
  const stock = {
    selectedColumns: ["attributes.`Source`", "attributes.`Models`", "attributes.`Dataset`"],
    groupBy: null,
    columnOrder: [],
    columnWidths: {},
  };
  const read = (key) => JSON.parse(localStorage.getItem(key) ?? "null");
  const keep = (key, value) => localStorage.setItem(key, JSON.stringify(value));
  const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);
  try {
    // The side for trainings, not the one for GenAI. And the assistant, which this server does not
    // offer, is not open over a quarter of the page.
    if (read("mlflow.workflowType_v1") === null) keep("mlflow.workflowType_v1", "machine_learning");
    keep("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", true);
    keep("mlflow.assistant.panelOpen_v1", false);
    for (const [experiment, view] of Object.entries(views)) {
      const key = `MLflowLocalStorage-1.1-ExperimentPage-["${experiment}"]-ReactComponentState`;
      const shown = read(key) ?? {};
      const ours = read(`kaggleops.view.${experiment}`) ?? stock;
      for (const name in stock) {
        if (shown[name] === undefined || same(shown[name], ours[name])) shown[name] = view[name];
      }
      keep(key, shown);
      keep(`kaggleops.view.${experiment}`, view);
    }
  } catch (error) {
    console.warn("MLflow's run table looks as MLflow has it:", error);
  }
})(VIEWS);
