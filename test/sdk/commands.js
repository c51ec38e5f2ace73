// A device that prints what the back end sends it, as the SDK understands it, and
// does with each message what its body says: complete, reject, abandon or nothing.
// It goes after the message whose ID is "last".
// Usage: node commands.js mqtt|ws|http CONNECTION-STRING CA-FILE
'use strict';
const { Client } = require('azure-iot-device');
const { Mqtt, MqttWs } = require('azure-iot-device-mqtt');
const { Http } = require('azure-iot-device-http');

const [door, connectionString, ca] = process.argv.slice(2);

async function main() {
  const client = Client.fromConnectionString(connectionString, { mqtt: Mqtt, ws: MqttWs, http: Http }[door]);
  if (door !== 'http') await client.setOptions({ ca });
  await client.open();
  client.on('message', async (m) => {
    const properties = {};
    for (let i = 0; i < m.properties.count(); i++) {
      const p = m.properties.getItem(i);
      properties[p.key] = p.value;
    }
    console.log(JSON.stringify({
      id: m.messageId, to: m.to, correlation: m.correlationId, user: m.userId, type: m.contentType, encoding: m.contentEncoding,
      expiry: m.expiryTimeUtc && new Date(m.expiryTimeUtc).toISOString(), ack: m.ack, properties, body: m.getBytes().toString(),
    }));
    try {
      switch (m.getBytes().toString()) {
        case 'reject': await client.reject(m); break;
        case 'abandon': await client.abandon(m); break;
        default: await client.complete(m);
      }
    } catch (err) {
      console.log(`${err.name}: ${err.message} ${err.responseBody || ''}`);
    }
    if (m.messageId === 'last') {
      // Of MQTT, the PUBACK is written once the handler returns.
      setTimeout(async () => { await client.close(); process.exit(0); }, 200);
    }
  });
  console.log('listens');
}

main().catch((err) => {
  console.log(`${err.name}: ${err.message} ${err.responseBody || ''}`);
  process.exit(1);
});
