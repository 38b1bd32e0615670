// A Node server with a timer; two requests a second to itself.
'use strict';
const http = require('http');
const { Meter } = require('../../planted/support/meter.js');

const meter = new Meter('requests');
const server = http.createServer((request, response) => response.end('fine\n'));
server.listen(0, '127.0.0.1', () => {
  const agent = new http.Agent({ keepAlive: true });
  meter.serve(2, () => http.get({ agent, port: server.address().port, host: '127.0.0.1' }, (answer) => answer.resume()));
});
