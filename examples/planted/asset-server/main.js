// Serves small assets: checks, opens, reads and closes the file for every request. Fixed: kept in memory.
'use strict';
const fs = require('fs');
const os = require('os');
const path = require('path');
const { Meter } = require('../support/meter.js');

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'assets-'));
const names = ['logo.svg', 'app.css', 'menu.json'];
for (const name of names) fs.writeFileSync(path.join(folder, name), name.repeat(60));
const kept = new Map();
const room = Buffer.alloc(4096);

function readAsset(name) {
  const file = path.join(folder, name);
  const { size } = fs.statSync(file);
  const descriptor = fs.openSync(file, 'r');
  fs.readSync(descriptor, room, 0, size, 0);
  fs.closeSync(descriptor);
  return room.toString('latin1', 0, size);
}

function respond(name) {
  if (meter.fixed && !kept.has(name)) kept.set(name, readAsset(name));
  const body = meter.fixed ? kept.get(name) : readAsset(name);
  return `HTTP/1.1 200 OK\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
}

const meter = new Meter('responses');
process.on('exit', () => fs.rmSync(folder, { recursive: true }));
meter.serve(40000, (number) => respond(names[number % names.length]));
