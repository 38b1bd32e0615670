// What every program of this folder measures of itself; see meter.h, whose output this prints too.
'use strict';
const now = () => Number(process.hrtime.bigint()) / 1e9;
const cpu = () => { const used = process.cpuUsage(); return (used.user + used.system) / 1e6; };

class Meter {
  constructor(unit) {
    const argument = process.argv.indexOf('--seconds');
    this.unit = unit;
    this.seconds = argument < 0 ? 10 : Number(process.argv[argument + 1]);
    this.fixed = process.argv.includes('--fixed');
    this.work = 0;
    this.busy = 0;
  }
  // Calls `handle` at `rate` requests a second until the time is over, then prints the report and ends.
  serve(rate, handle) {
    console.log('ready');
    this.begun = now();
    this.cpuBegun = cpu();
    let due = this.begun;
    const turn = () => {
      while (due <= now()) {
        if (due < now() - 0.5) due = now();
        due += 1 / rate;
        const since = now();
        handle(this.work);
        this.work += 1;
        this.busy += now() - since;
        if (now() - this.begun >= this.seconds) return this.report();
      }
      setTimeout(turn, 1);
    };
    turn();
  }
  report() {
    const report = { unit: this.unit, work: this.work, seconds: now() - this.begun,
      cpu_s: cpu() - this.cpuBegun, busy_s: this.busy };
    console.log(JSON.stringify(report));
    process.exit(0);
  }
}
module.exports = { Meter };
