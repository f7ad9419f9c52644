// Puts a copy button above every table; without it the tables can still be selected and copied.
document.querySelectorAll(".scroll").forEach(function (box) {
  var button = document.createElement("button");
  button.type = "button"; button.className = "copy"; button.textContent = "Copy table";
  button.addEventListener("click", function () {
    var lines = Array.from(box.querySelectorAll("tr")).map(function (row) {
      return Array.from(row.cells).map(function (cell) { return cell.textContent; }).join("\t");
    });
    function label(text) {
      button.textContent = text;
      setTimeout(function () { button.textContent = "Copy table"; }, 1500);
    }
    function bySelection() {
      var area = document.createElement("textarea");
      area.value = lines.join("\n"); document.body.appendChild(area); area.select();
      var done = document.execCommand("copy"); area.remove(); label(done ? "Copied" : "Select and copy by hand");
    }
    if (!navigator.clipboard) { bySelection(); return; }
    navigator.clipboard.writeText(lines.join("\n")).then(function () { label("Copied"); }, bySelection);
  });
  box.parentNode.insertBefore(button, box);
});
