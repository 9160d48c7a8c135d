"use strict";
(() => {
  const { data, dots, places, draw } = kaggleops;
  document.getElementById("scores").append(...dots(data.groups,
    "Dot: a fold and seed. Bar: mean. Whiskers: its 95 % interval. Orange: a regression. Point at a dot."));
  if (data.submitted.length) document.getElementById("submitted").append(...places(data.submitted,
    data.metric, data.kaggle.replace("_", " "), "A commit each. Point at one."));
  draw();
})();
