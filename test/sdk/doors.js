// A device by another door than MQTT over TLS, with a certificate or a key.
// Usage: node doors.js ws|http CONNECTION-STRING CA-FILE [FOLDER]
'use strict';
const fs = require('fs');
const path = require('path');
const { Client, Message } = require('azure-iot-device');
const { MqttWs } = require('azure-iot-device-mqtt');
const { Http } = require('azure-iot-device-http');

const [door, connectionString, ca, folder] = process.argv.slice(2);

async function main() {
  const client = Client.fromConnectionString(connectionString, door === 'ws' ? MqttWs : Http);
  const options = door === 'ws' ? { ca } : {}; // of HTTP, NODE_EXTRA_CA_CERTS says it to uploads too
  if (folder) {
    options.cert = fs.readFileSync(path.join(folder, 'chain.pem'), 'utf8');
    options.key = fs.readFileSync(path.join(folder, 'device.key'), 'utf8');
  }
  const set = client.setOptions(options);
  if (door === 'ws') await set; // of HTTP it takes effect at once, and never says so
  await client.open();
  const message = new Message(JSON.stringify({ temperature: 21.5 }));
  message.contentType = 'application/json';
  message.contentEncoding = 'utf-8';
  message.messageId = 'm-1';
  message.properties.add('alarm', 'a&b/c=d e+f');
  await client.sendEvent(message);
  console.log('sent: acknowledged, hence on disk');
  if (door === 'http') {
    const second = new Message('second');
    second.properties.add('Line', '4');
    await client.sendEventBatch([second, new Message('third')]);
    console.log('batch sent');
    try {
      await client.getBlobSharedAccessSignature('a.txt');
      console.log('a file could be uploaded, and nobody has a storage');
    } catch (err) {
      console.log(`upload: ${err.name} ${err.responseBody || err.message}`);
    }
  }
  await client.close();
}

main().catch((err) => {
  console.log(`${err.name}: ${err.message} ${err.responseBody || ''}`);
  process.exit(1);
});
