"""How the report looks: one column that fits a phone, light and dark; and what it may load."""

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:"
)
# The grounds are those of Evidently's part of the page, light and dark. Its style sheet sets `*`
# and `body`, hence the class before every rule.
STYLE = """
.lookout{--ground:#fff;--surface:#f5f7f9;--line:#dde2e7;--text:#1a2330;--quiet:#54606f;
--before:#a3adb8;--now:#2059ae;--tint:#2059ae40;--bad:#a9281c;--bad-tint:#fcecea;--good:#1c6b3c;
--good-tint:#e8f4ec;--real:#8a5a00}
@media(prefers-color-scheme:dark){.lookout{--ground:#121212;--surface:#1c2026;--line:#363e48;
--text:#e9eef4;--quiet:#a9b4c2;--before:#768290;--now:#84b4fb;--tint:#84b4fb4d;--bad:#ff9a8f;
--bad-tint:#3a1c19;--good:#7fd6a0;--good-tint:#16301f;--real:#f0b849}}
body{margin:0}
.lookout{font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;color:var(--text);
background:var(--ground);padding:28px max(16px,calc(50% - 560px)) 8px;overflow-wrap:anywhere}
.lookout *{box-sizing:border-box}
.lookout h1{font-size:clamp(20px,4vw,26px);line-height:1.3;margin:0;padding:16px 20px;
border-radius:8px;border-left:7px solid var(--good);background:var(--good-tint);font-weight:650}
.lookout h1.drift{border-color:var(--bad);background:var(--bad-tint)}
.lookout h2{font-size:20px;line-height:1.3;margin:44px 0 4px;font-weight:650}
.lookout h3{font-size:15px;margin:0;font-weight:600}
.lookout p{margin:6px 0;color:var(--quiet);max-width:82ch}
.lookout dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(165px,1fr));gap:10px;
margin:18px 0 0}
.lookout dl>div{background:var(--surface);border-radius:8px;padding:10px 14px}
.lookout dt{font-size:13px;color:var(--quiet)}
.lookout dd{margin:0;font-size:24px;line-height:1.3;font-variant-numeric:tabular-nums}
.lookout dd.detail{font-size:13px;color:var(--quiet)}
.lookout .notes{margin:16px 0 0;padding:10px 14px 10px 32px;border:1px solid var(--line);
border-radius:8px;color:var(--quiet);font-size:14px}
.lookout .legend{display:flex;flex-wrap:wrap;gap:2px 18px;font-size:13px;color:var(--quiet);
margin:6px 0 12px}
.lookout .legend i{display:inline-block;width:12px;height:12px;border-radius:2px;margin-right:6px;
vertical-align:-1px}
.lookout .legend i.mark{width:0;height:15px;border-radius:0;border-left:2px solid var(--bad);
background:none}
.lookout .legend i.level{height:0;width:18px;border-radius:0;border-top:2px dashed var(--quiet);
background:none;vertical-align:4px}
.lookout i.before{background:var(--before)}
.lookout i.now{background:var(--now)}
.lookout i.real{background:var(--real)}
.lookout i.bad{background:var(--bad)}
.lookout .cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(320px,100%),1fr));
gap:16px;margin:0;padding:0;list-style:none}
.lookout .trend{grid-template-columns:repeat(auto-fill,minmax(min(440px,100%),1fr))}
.lookout .cards>li{border:1px solid var(--line);border-radius:8px;padding:14px 16px;margin:0;
min-width:0;display:flex;flex-direction:column}
.lookout .cards .plot{margin-top:auto}
.lookout .cards p{margin:2px 0 10px;font-size:14px}
.lookout .plot{position:relative;padding:6px 0 22px 44px}
.lookout .plot svg{display:block;width:100%;height:130px;overflow:visible}
.lookout .up{position:absolute;left:0;top:6px;bottom:22px;width:38px}
.lookout .up span{position:absolute;right:0;white-space:nowrap;transform:translateY(50%)}
.lookout .across{position:absolute;left:44px;right:0;bottom:0;height:18px}
.lookout .across span{position:absolute;transform:translateX(-50%);white-space:nowrap}
.lookout .across .first{transform:none}
.lookout .across .last{transform:translateX(-100%)}
.lookout .up,.lookout .across{font-size:12px;line-height:1;color:var(--quiet);
font-variant-numeric:tabular-nums}
.lookout .across{line-height:18px}
.lookout path{vector-effect:non-scaling-stroke;fill:none}
.lookout path.grid{stroke:var(--line);stroke-width:1}
.lookout path.before{fill:var(--before)}
.lookout path.now{fill:var(--tint);stroke:var(--now);stroke-width:2}
.lookout path.dots,.lookout path.line{fill:none;stroke-linecap:round;stroke-linejoin:round}
.lookout path.dots{stroke-width:5}
.lookout path.line{stroke-width:2}
.lookout path.dots.before{stroke:var(--before)}
.lookout .trend path.dots{stroke-width:8}
.lookout path.real{stroke:var(--real)}
.lookout path.mark{stroke:var(--bad);stroke-width:2;opacity:.55}
.lookout path.level{stroke:var(--quiet);stroke-width:1.5;stroke-dasharray:5 4}
.lookout .pairs{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(310px,100%),1fr));
gap:16px;margin:12px 0;padding:0;list-style:none}
.lookout .pairs>li{border:1px solid var(--line);border-radius:8px;padding:12px;font-size:13px;
margin:0;min-width:0}
.lookout .two{display:grid;grid-template-columns:1fr 1fr;gap:10px}
.lookout .alone{grid-template-columns:repeat(auto-fill,minmax(160px,1fr))}
.lookout .alone .two{grid-template-columns:1fr}
.lookout figure{margin:0;min-width:0}
.lookout figure img,.lookout .none{display:block;width:100%;height:144px;object-fit:contain;
background:var(--surface);border-radius:4px}
.lookout .none{display:grid;place-content:center;text-align:center;padding:8px;
color:var(--quiet)}
.lookout figcaption{margin-top:5px;line-height:1.35}
.lookout figcaption b{display:block;font-weight:600}
.lookout .pairs p{margin:8px 0 0;font-size:13px;line-height:1.4}
.lookout small{font-size:12px;color:var(--quiet);display:block;line-height:1.35}
.lookout table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;
table-layout:fixed;margin:8px 0}
.lookout th,.lookout td{padding:6px 8px;border-bottom:1px solid var(--line);text-align:left;
font-weight:400;vertical-align:top}
.lookout thead th{font-size:13px;font-weight:600;color:var(--quiet);vertical-align:bottom}
.lookout .number{text-align:right}
.lookout tr.moved>*{background:var(--bad-tint)}
.lookout tr.moved td:last-child{color:var(--bad);font-weight:600}
.lookout .bar{position:relative;height:9px;margin-top:5px;background:var(--line);border-radius:2px}
.lookout .bar i{position:absolute;inset:0 auto 0 0;background:var(--before);border-radius:2px}
.lookout .bar.accuracy i{background:var(--real)}
.lookout .moved .bar i{background:var(--bad)}
.lookout .bar b{position:absolute;top:-3px;bottom:-3px;width:2px;background:var(--text)}
.lookout .bar u{position:absolute;top:3.5px;height:2px;background:var(--text)}
.lookout table.bars{margin:0}
.lookout .bars col.name{width:30%}
.lookout .bars th{padding-left:0}
.lookout .bars th,.lookout .bars td{border:0;padding-block:4px;line-height:1.25;
vertical-align:middle}
.lookout .pair{display:flex;align-items:center;gap:7px;font-size:12px;line-height:1.2}
.lookout .pair i{height:10px;border-radius:2px;min-width:2px;flex:none}
.lookout .detectors th:nth-child(1){width:18%}
.lookout .detectors th:nth-child(2){width:13%}
.lookout .detectors th:nth-child(3){width:23%}
.lookout .detectors :is(th,td):nth-child(n+4){white-space:nowrap}
.lookout details{margin:4px 0}
.lookout summary{cursor:pointer;padding:8px 0;color:var(--quiet)}
.lookout .unseen{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);
white-space:nowrap}
[id^=root_]{max-width:1168px;margin:auto}
@media(max-width:700px){.lookout .wide{display:none}.lookout th,.lookout td{padding:6px 4px}
.lookout table{font-size:12px}.lookout thead th{font-size:11px}
.lookout dl{grid-template-columns:repeat(auto-fill,minmax(140px,1fr))}
.lookout .detectors th:nth-child(1){width:24%}
.lookout .detectors th:nth-child(3){width:25%}
.lookout .detectors th:nth-child(6){width:20%;white-space:normal}
.lookout .detectors th:nth-child(7){width:15%;white-space:normal}}
"""
