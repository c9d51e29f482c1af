package report

import (
	"context"
	"encoding/json"
	"fmt"
	"html"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// harness shows a page in a frame of some width, as a browser does on a screen
// of that width, measures it with a script of its own (the page has none) and
// leaves what it found in its title. %d is the width, %s the page.
const harness = `<!DOCTYPE html><meta charset="utf-8"><title>not done</title>
<iframe id="f" style="width:%dpx;height:900px;border:0" srcdoc="%s"></iframe>
<script>
document.getElementById("f").onload = function () {
  const d = this.contentDocument, w = this.contentWindow, root = d.documentElement, problems = [];
  const report = JSON.parse(d.getElementById("report").textContent);
  const at = p => p.split("/").slice(1).reduce((v, k) => v === undefined ? v : v[k], report);
  let figures = 0;
  for (const e of d.querySelectorAll("[data-json]")) {
    figures++;
    const v = at(e.dataset.json);
    if (typeof v !== "number" || Number(e.dataset.value) !== v || e.textContent.trim() === "") problems.push("figure " + e.dataset.json);
  }
  if (root.scrollWidth > root.clientWidth) {
    const wide = [...d.querySelectorAll("main *")].filter(e => e.getBoundingClientRect().right > root.clientWidth + 1 && !e.closest(".scroll"));
    problems.push("scrolls sideways: " + root.scrollWidth + " of " + root.clientWidth + ", " + wide.slice(0, 3).map(e => e.tagName + "." + e.className).join(" "));
  }
  let charts = 0;
  for (const f of d.querySelectorAll("figure .plot")) {
    const shown = [...f.querySelectorAll("svg")].filter(s => s.getBoundingClientRect().width > 0);
    charts += shown.length;
    if (shown.length !== 1) problems.push(shown.length + " forms of a chart are shown");
    for (const s of shown) {
      const box = s.getBoundingClientRect();
      for (const x of s.querySelectorAll("text")) {
        const b = x.getBoundingClientRect();
        if (b.left < box.left - 2 || b.right > box.right + 2 || b.top < box.top - 2 || b.bottom > box.bottom + 2) problems.push("chart text is cut off: " + x.textContent);
        const size = parseFloat(w.getComputedStyle(x).fontSize) * box.width / s.viewBox.baseVal.width;
        if (size < 8 || size > 15) problems.push("chart text of " + size.toFixed(1) + " pixels");
      }
    }
  }
  // Contrast as WCAG 2 defines it, of all text against the nearest background.
  const rgb = c => (c.match(/[\d.]+/g) || []).map(Number);
  const lum = c => [0.2126, 0.7152, 0.0722].reduce((s, k, i) => s + k * (v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)(c[i] / 255), 0);
  const ground = e => { for (; e; e = e.parentElement) { const c = rgb(w.getComputedStyle(e).backgroundColor); if (c.length === 3 || c[3] > 0) return c; } return [255, 255, 255]; };
  const low = new Set();
  for (const e of d.querySelectorAll("body *")) {
    if (e.tagName === "SCRIPT" || ![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
    const style = w.getComputedStyle(e), a = lum(rgb(e.closest("svg") ? style.fill : style.color)), b = lum(ground(e));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) low.add(e.tagName + "." + (e.getAttribute("class") || "") + " " + ratio.toFixed(1));
  }
  if (low.size) problems.push("contrast: " + [...low].slice(0, 4).join(", "));
  document.title = JSON.stringify({ problems: [...new Set(problems)].slice(0, 12), figures, charts, dark: lum(ground(d.body)) < 0.2, verdict: d.getElementById("verdict").textContent });
};
</script>`

var titleRE = regexp.MustCompile(`(?s)<title>(.*?)</title>`)

// TestHTMLInBrowser opens pages in headless Chromium, in light and in dark, on
// wide screens and on a phone's.
func TestHTMLInBrowser(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a browser several times")
	}
	var browser string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			browser = path
			break
		}
	}
	if browser == "" {
		t.Skip("no chromium or chrome on PATH: the pages are not rendered")
	}
	all := pages()
	for _, tt := range []struct {
		page  string
		width int
		dark  bool
	}{
		{"several", 1280, false}, {"several", 375, true}, {"one", 800, true},
		{"hostile", 375, false}, {"alone", 320, true},
	} {
		t.Run(fmt.Sprintf("%s %d dark=%v", tt.page, tt.width, tt.dark), func(t *testing.T) {
			src := fmt.Sprintf(harness, tt.width, html.EscapeString(render(t, all[tt.page])))
			path := filepath.Join(t.TempDir(), "harness.html")
			if err := os.WriteFile(path, []byte(src), 0o644); err != nil {
				t.Fatal(err)
			}
			scheme := 1
			if tt.dark {
				scheme = 0
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--user-data-dir="+t.TempDir(),
				fmt.Sprintf("--blink-settings=preferredColorScheme=%d", scheme), "--window-size=1400,1000", "--enable-logging=stderr",
				"--virtual-time-budget=5000", "--dump-dom", "file://"+path)
			var stderr strings.Builder
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			if err != nil && os.Getenv("CI") == "" {
				t.Skipf("the browser does not run here: %v: %.300s", err, stderr.String())
			}
			if err != nil {
				t.Fatalf("%v: %.600s", err, stderr.String())
			}
			var found struct {
				Problems        []string
				Figures, Charts int
				Dark            bool
				Verdict         string
			}
			m := titleRE.FindSubmatch(out)
			if m == nil || json.Unmarshal([]byte(html.UnescapeString(string(m[1]))), &found) != nil {
				t.Fatalf("the page was not measured: %.300s\n%.600s", out, stderr.String())
			}
			for _, p := range found.Problems {
				t.Error(p)
			}
			for line := range strings.Lines(stderr.String()) {
				if strings.Contains(line, "CONSOLE") {
					t.Errorf("on the console: %s", line)
				}
			}
			r := all[tt.page]
			if found.Dark != tt.dark || found.Figures == 0 || found.Charts == 0 {
				t.Errorf("dark %v, %d figures, %d charts", found.Dark, found.Figures, found.Charts)
			}
			if want := mark(len(r.Gates) == 0, "No gates", mark(r.Passed(), "Passed", "Failed")); found.Verdict != want {
				t.Errorf("verdict %q, want %q", found.Verdict, want)
			}
		})
	}
}
