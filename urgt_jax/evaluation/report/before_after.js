// Moves the divider of the image at the top of the report.
"use strict";

const front = document.getElementById("front");
const divider = front?.querySelector("input");
divider?.addEventListener("input", () => front.style.setProperty("--split", `${divider.value}%`));
