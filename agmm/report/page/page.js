// A link to something inside closed parts opens them; narrow screens begin with the contents closed.
function reveal() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  for (let part = target; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
  target.scrollIntoView();
}
addEventListener("hashchange", reveal);
if (matchMedia("(max-width: 62rem)").matches)
  for (const part of document.querySelectorAll("nav details")) part.open = false;
if (location.hash) reveal();
