// JavaScript that spends its time in node's own native code: compression, digests, JSON, regular expressions, sorting.
const zlib = require('zlib');
const crypto = require('crypto');
const records = Array.from({ length: 2000 }, (_, n) => ({ id: n, name: 'name ' + (n * 7919) % 2003, tags: ['a', 'b', n] }));
let seen = 0;
function round() {
  const text = JSON.stringify(records);
  seen += zlib.gunzipSync(zlib.gzipSync(text)).length;
  seen += crypto.createHash('sha256').update(text).digest('hex').length;
  seen += JSON.parse(text).sort((a, b) => (a.name < b.name ? -1 : 1)).length;
  seen += text.replace(/name (\d+)/g, 'n$1').length;
  setImmediate(round);
}
round();
