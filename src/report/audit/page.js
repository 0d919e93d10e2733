(function () {
  "use strict";
  var one = function (id) { return document.getElementById(id); };
  var text = one("text"), host = one("host"), verdict = one("verdict"), acked = one("acked"), shown = one("shown");
  var findings = Array.prototype.slice.call(document.querySelectorAll(".finding"));
  function filter() {
    var words = text.value.toLowerCase().split(/\s+/).filter(Boolean), count = 0;
    findings.forEach(function (finding) {
      var data = finding.dataset, all = data.text;
      var fits = words.every(function (word) { return all.indexOf(word) >= 0; }) &&
        (!host.value || data.host === host.value) && (!verdict.value || data.verdict === verdict.value) &&
        (acked.checked || data.acked !== "1");
      finding.hidden = !fits;
      if (fits) count += 1;
    });
    shown.textContent = count + " of " + findings.length;
    try { history.replaceState(null, "", "#" + [text.value, host.value, verdict.value].map(encodeURIComponent).join("/")); } catch (ignored) { /* a file: page may not */ }
  }
  [text, host, verdict, acked].forEach(function (input) { input.addEventListener("input", filter); });
  document.querySelectorAll("[data-pick]").forEach(function (button) {
    button.addEventListener("click", function () {
      host.value = host.value === button.dataset.pick ? "" : button.dataset.pick;
      filter();
      one("findings").scrollIntoView();
    });
  });
  document.querySelectorAll("[data-open]").forEach(function (cell) {
    cell.addEventListener("click", function () {
      var finding = one(cell.dataset.open);
      if (!finding) return;
      finding.hidden = false;
      finding.open = true;
      finding.scrollIntoView({ block: "center" });
    });
  });
  window.addEventListener("beforeprint", function () { findings.forEach(function (finding) { finding.open = true; }); });
  var given = location.hash.slice(1).split("/").map(function (part) { try { return decodeURIComponent(part); } catch (bad) { return ""; } });
  if (given.length === 3) { text.value = given[0]; host.value = given[1]; verdict.value = given[2]; }
  filter();
})();
