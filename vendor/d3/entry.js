export { hierarchy, partition } from "d3-hierarchy";
export { select } from "d3-selection";
