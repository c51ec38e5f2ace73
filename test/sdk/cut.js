// A device that stays connected until its hub no longer trusts it.
// Usage: node cut.js mqtt|ws|amqp|amqp-ws HOST DEVICE-ID FOLDER CA-FILE
'use strict';
const fs = require('fs');
const path = require('path');
const { Client, Message } = require('azure-iot-device');
const { Mqtt, MqttWs } = require('azure-iot-device-mqtt');
const { Amqp, AmqpWs } = require('azure-iot-device-amqp');

const [door, host, id, folder, ca] = process.argv.slice(2);

async function main() {
  const client = Client.fromConnectionString(`HostName=${host};DeviceId=${id};x509=true`, { mqtt: Mqtt, ws: MqttWs, amqp: Amqp, 'amqp-ws': AmqpWs }[door]);
  await client.setOptions({
    cert: fs.readFileSync(path.join(folder, 'chain.pem'), 'utf8'),
    key: fs.readFileSync(path.join(folder, 'device.key'), 'utf8'),
    ca: door.startsWith('amqp') ? fs.readFileSync(ca, 'utf8') : ca,
  });
  await client.open();
  console.log('open');
  // It sends now and then, as devices do. Cut off, the SDK tries to come back with
  // the next message; told that it may not, it tells its application.
  for (let n = 0; n < 1200; n++) {
    try {
      await client.sendEvent(new Message(`message ${n}`));
    } catch (err) {
      console.log(`gone: ${err.name}`);
      process.exit(0);
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  console.log('still connected');
  process.exit(1);
}

main().catch((err) => {
  console.log(`${err.name}: ${err.message}`);
  process.exit(1);
});
